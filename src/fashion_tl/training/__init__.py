"""What trains when, at which rates: the plan, its optimizer and schedules, the objective, the LightningModules."""
