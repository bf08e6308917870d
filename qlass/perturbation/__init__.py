"""Task perturbation: the task's instruction in other words, so that a policy proposes more different actions (Figure 9).

`rules` rewords without any model, `endpoint` asks a language model. Both keep what is asked for; neither knows an
environment.
"""
