"""A report as Markdown, for pull requests and chats."""

import re
from collections.abc import Sequence

from scaler.report.model import Report
from scaler.report.words import (
    batch_words,
    decision_words,
    ended,
    ended_words,
    more_facts,
    number,
    plural,
    printable,
    seconds,
)


def render_markdown(report: Report) -> str:
    """Return the report; names and messages are shown as text, whatever they hold."""
    plan, totals, final = report.plan, report.totals, report.final
    parts = [f"# {_text(report.run_id)}: {report.state}", _verdicts(report)]
    if report.failure:
        parts.append(_code(printable(report.failure)))
    parts.append(
        _table(
            ("", ""),
            [
                ("workers", number(plan["world_size"])),
                ("global batch", f"{number(plan['global_batch_size'])} ({_text(plan['reasons']['batch_ratio'])})"),
                ("peak rate", f"{number(plan['peak_lr'])} ({_text(plan['rule_reason'])})"),
                ("trained", f"{plural(totals.samples_seen, 'sample')} in {plural(totals.steps, 'step')}"),
                ("speed", f"{number(totals.samples_per_s)} samples/s"),
                ("wall clock", seconds(totals.wall_s)),
                ("train loss", f"{number(final.train_loss_mean)} (mean over ranks, last epoch)"),
                *((f"eval {_text(name)}", number(value)) for name, value in final.eval.items()),
                ("rate used against plan", f"largest difference {number(report.lr_audit.max_abs_error)}"),
                *((name, _text(value)) for name, value in more_facts(report)),
            ],
        )
    )
    parts.append(
        _table(
            ("rank", "samples", "samples/s", "loss", "step p50", "step p95", "data wait", "sync wait", "GiB"),
            [
                (
                    str(row.rank),
                    number(row.samples),
                    number(row.worker_samples_per_s),
                    number(row.loss_mean),
                    seconds(row.step_time_s.median),
                    seconds(row.step_time_s.p95),
                    seconds(row.data_wait_s),
                    seconds(row.sync_wait_s),
                    number(row.peak_memory_gib, 3),
                )
                for row in report.workers
            ],
        )
    )
    if report.is_uneven:
        parts.append(_attempts(report))
    parts.append(_decisions(report))
    return "\n\n".join(part for part in parts if part) + "\n"


def _attempts(report: Report) -> str:
    return _table(
        (
            *("attempt", "workers", "global batch", "peak rate", "from sample", "to sample", "ended by", "why"),
            *("done again", "restart"),
        ),
        [
            (
                str(row.attempt),
                number(row.world_size),
                batch_words(row),
                number(row.peak_lr),
                number(row.start_samples),
                number(row.end_samples),
                ended_words(row),
                _text(row.cause or ""),
                number(row.redone_samples),
                seconds(row.restart_s),
            )
            for row in report.attempts
        ],
    )


def _decisions(report: Report) -> str:
    return "\n".join(
        f"- at {plural(decision.samples_seen, 'sample')}: {_text(decision_words(decision))}"
        for decision in report.decisions
    )


def _verdicts(report: Report) -> str:
    if report.all_clear is not None:
        return report.all_clear
    return "\n".join(
        f"- **{verdict.code}**: {_text(verdict.message)} {_text(ended(verdict.evidence))} {_text(verdict.next)}"
        for verdict in report.verdicts
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text: str) -> str:
    """Text in a fence that is longer than any in it; an indented block would belong to the list above it."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def _text(value: object) -> str:
    """Text that Markdown leaves as it is, in a table too."""
    shown = printable(str(value)).replace("\n", " ").replace("\t", " ").replace("\\", "\\\\")
    shown = shown.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{char}" if char in "|*_`[]#~" else char for char in shown)
