"""Many runs of one question: strategies compared over label budgets and seeds, switches turned off one by one."""
