"""How the demo is shown: on a terminal or in a pipe, while it happens."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from hostd.cli.commands.listing import models_table, unloads_table
from hostd.cli.demo.story import Narrator
from hostd.cli.output import console, plain, table, working
from hostd.units import format_duration, format_size
from hostd_workers.wire.installing import install_extras

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from hostd.cli.demo.models import Classifier, Digits
    from hostd.cli.demo.story import Story
    from hostd.records import ModelInfo


_TEXT_COLUMNS = 78


class Spoken(Narrator):
    """Tells the story on stdout as it happens."""

    def __init__(self) -> None:
        self._out = console()
        self._step = 0
        self._column = 0

    def working(self, text: str) -> AbstractContextManager[None]:
        """Show a spinner with the text."""
        return working(text, quiet=False)

    def trained(self, made: list[Classifier], data: Digits, story: Story) -> None:
        """Say what was trained."""
        self._head(f"{len(made)} models trained on {len(data.learn)} scanned digits; {story.held_out} are held out")
        if story.skipped:
            self._line(f"[yellow]{plain(story.skipped)}[/] ({plain(install_extras('onnx'))} skl2onnx)")

    def started(self, story: Story) -> None:
        """Say that the host runs."""
        self._head(
            f"a host of this program's own, pid {story.host_pid}, answered after {format_duration(story.start_s)}"
        )

    def loaded(self, model: ModelInfo, title: str) -> None:
        """Say what a load took."""
        took, size = format_duration(model.load_duration_s), format_size(model.size)
        self._line(f"[bold]{plain(model.id):<16}[/]{took:>7}  {size:>7}  {plain(title)}")

    def compared(self, story: Story) -> None:
        """Show the accuracies side by side."""
        self._head(f"accuracy on the {story.held_out} held-out digits, and one call with one digit")
        rows = table(
            "MODEL", "HOSTED", "IN PROCESS", "ANSWERS", "CALL", "IN PROCESS", right=("HOSTED", "IN PROCESS", "CALL")
        )
        for found in story.comparisons:
            same = "[green]all equal[/]" if not found.differing else f"[red]{found.differing} differ[/]"
            rows.add_row(
                plain(found.model),
                f"{found.accuracy:.2%}",
                f"{found.accuracy_in_process:.2%}",
                same,
                format_duration(found.call_s),
                format_duration(found.call_in_process_s),
            )
        self._out.print(rows)
        self._head("a generator's words, as they are made")

    def word(self, word: str) -> None:
        """Print a word at once."""
        if self._column + len(word) >= min(self._out.width, _TEXT_COLUMNS):
            self._out.print()
            self._column = 0
        self._out.print(("" if self._column else " ") + f" [italic]{plain(word)}[/]", end="", soft_wrap=True)
        self._out.file.flush()
        self._column += len(word) + 1

    def streamed(self, story: Story) -> None:
        """Say how long the words took."""
        self._out.print()
        if stream := story.stream:
            first, total = format_duration(stream.first_s), format_duration(stream.total_s)
            self._line(f"[dim]first of {len(stream.words)} words after {first}, last after {total}[/]")

    def measured(self, story: Story) -> None:
        """Show the table of models."""
        self._head("what the operating system says that they use")
        self._out.print(models_table(story.models, time.time()))

    def unloaded(self, story: Story) -> None:
        """Show what each unload gave back."""
        self._head("all unloaded: every process ended, reaped and proven gone")
        self._out.print(unloads_table(story.unloads))

    def verdict(self, story: Story) -> None:
        """Say whether all of it held."""
        self._out.print()
        for problem in story.problems:
            self._out.print(f"[bold red]wrong:[/] {plain(problem)}")
        if not story.problems:
            text = "Equal answers, measured sizes, no process left"
            self._out.print(f"[bold green]{text}[/] ({format_duration(story.total_s)} in all)")
            self._out.print("Next: hostd serve, then hostd load ID PATH with a model of your own.")

    def _head(self, text: str) -> None:
        self._step += 1
        self._out.print(f"\n[bold cyan]{self._step}[/] {text}" if self._step > 1 else f"[bold cyan]1[/] {text}")

    def _line(self, text: str) -> None:
        self._out.print(f"  {text}")
