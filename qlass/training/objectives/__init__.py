"""What can be optimised: one file per objective, with its settings, its rows and the module that is trained."""
