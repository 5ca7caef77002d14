"""Builds the documentation as a web site: `make docs` writes it to build/docs."""

from __future__ import annotations

from collections.abc import Iterator

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from crn_fast import __version__
from crn_fast.cli import cli

project = "crn_fast"
author = "The crn_fast authors"
version = release = __version__

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "crn_fast"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b57d0", "color-brand-content": "#0b57d0"},
    "dark_css_variables": {"color-brand-primary": "#8ab4f8", "color-brand-content": "#8ab4f8"},
}
html_show_sphinx = False


class Commands(Directive):
    """`commands`: a section for every command of crn-fast, with what its --help prints."""

    def run(self) -> list[nodes.Node]:
        return [*self.sections(cli, click.Context(cli, info_name="crn-fast"))]

    def sections(self, group: click.Group, context: click.Context) -> Iterator[nodes.Node]:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            inner = click.Context(
                command, parent=context, info_name=name, max_content_width=80, terminal_width=80
            )
            text = command.get_help(inner)
            section = nodes.section(ids=[inner.command_path.replace(" ", "-")])
            section += nodes.title(text=inner.command_path)
            section += nodes.literal_block(text, text, language="none")
            if isinstance(command, click.Group):
                section += [*self.sections(command, inner)]
            yield section


def setup(app: Sphinx) -> None:
    app.add_directive("commands", Commands)
