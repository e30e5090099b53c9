"""Does a served base equal the one that an adapter was trained on?"""

from dataclasses import dataclass

from adapters.format.manifest import BaseLineage, Lineage, QuantizationRecord


@dataclass(frozen=True, slots=True)
class ServedBase:
    """What a server runs adapters on. A `quantization` of None isn't known, and not compared.

    `template_hash` is the chat template's (`adapters.base.chat_template`), None where the base has
    none.
    """

    lineage: BaseLineage
    quantization: QuantizationRecord | None = None
    template_hash: str | None = None

    def mismatches(self, made_for: Lineage) -> tuple[str, ...]:
        """Every way in which the adapter was made for other weights; empty when it fits.

        What a manifest doesn't record, as an import from elsewhere doesn't, can't contradict.
        """
        problems: list[str] = []
        base = made_for.base
        if base is not None and base.digest != self.lineage.digest:
            problems.append(
                f"it was trained on the base {base.reference} ({base.digest}), and this server has "
                f"{self.lineage.reference} ({self.lineage.digest})"
            )
        made, here = made_for.quantization, self.quantization
        if made is not None and here is not None and _shown(made) != _shown(here):
            problems.append(
                f"it was trained on base weights in {_shown(made)}, and this server holds them in "
                f"{_shown(here)} (settings quantization and double_quant)"
            )
        return tuple(problems)

    def other_template(self, made_for: Lineage) -> str | None:
        """How the chat template that the adapter was trained with isn't the base's."""
        template = made_for.template_hash
        if template is None or template == self.template_hash:
            return None
        here = self.template_hash or "none"
        return (
            f"it was trained with the chat template {template}, and this server's base has {here}"
        )


def _shown(record: QuantizationRecord) -> str:
    if record.scheme == "none":
        return "full precision"
    double = "with" if record.double_quant else "without"
    return f"{record.scheme}, block size {record.block_size}, {double} double quantisation"
