"""Table 1: full fine-tuning, LoRA and QLoRA, three seeds each: held-out loss and parameters.

python examples/reproduce/quality.py        (about a minute a run, nine runs)
"""

from experiment import RESULTS, record_of

METHODS = ("full", "lora", "qlora")
SEEDS = (0, 1, 2)


def overrides(method: str, seed: int) -> list[str]:
    return ["--method", method, "--seed", str(seed)]


def main() -> None:
    records = {m: [record_of(overrides(m, seed)) for seed in SEEDS] for m in METHODS}
    from quality_report import write_report

    write_report(records, RESULTS)


if __name__ == "__main__":
    main()
