"""Fine-tuning methods: what each makes of the base, through PEFT's own config classes.

`targets.py` says which modules, `peft_config.py` what PEFT is told, `attachment.py` puts it on the
base, and `tuning.py` is what comes out: the model to train, with what its method wants done beside
the steps. `starting_point.py` and `adalora.py` are the methods whose published form differs from
what is trained.
"""
