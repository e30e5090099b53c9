"""Fine-tuning methods: one record each, and what each makes of the base through PEFT.

`method.py` says what a record answers, `registry.py` lists them; `lora.py`, `ia3.py`, `full.py` ...
are the records, and the only places that know one method from another. `attachment.py` puts one on
a base, and `tuning.py` is what comes out: the model to train, with what its method wants done
beside the steps. `starting_point.py`, `started.py` and `adalora_tuning.py` are those whose
published form differs from what is trained.
"""

# The config's sections are the records', so it loads them in the midst of its own loading. Whoever
# comes in here first would meet it half-way; so the config always goes first.
import trainer.config  # noqa: F401
