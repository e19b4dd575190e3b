"""``fashion-tl probe``: linear classifiers, solved to their optimum, on the pooled features of every stage."""
