"""The commands of README and docs are ones that the command line takes, of scripts that are there."""

import re
import shlex

import pytest
from doc_pages import ROOT, TEXTS, name_of, shell_blocks

from jaxscape.cli.parse import parse

PLACEHOLDER = re.compile(r"[\[\]|]|\.\.\.|\{")  # of a line that shows a form and is no command


def lines(path):
    """Return the commands of a page as lists of words; words after three spaces explain the line."""
    for block in shell_blocks(path):
        for line in block.replace("\\\n", " ").split("\n"):
            text = re.sub(r"(jaxscape [a-z]+) +", r"\1 ", line.partition(" #")[0]).strip()
            text = re.split(r" {3}|;", text)[0]
            if text and not PLACEHOLDER.search(text):
                try:
                    yield shlex.split(text)
                except ValueError:  # prose with an apostrophe
                    continue


def commands(path):
    """Return what follows `jaxscape` in the commands of a page."""
    return [words[words.index("jaxscape") + 1 :] for words in lines(path) if "jaxscape" in words]


def scripts(path):
    """Return script and options of the commands of a page that run a script of the repository."""
    for words in lines(path):
        for place, word in enumerate(words):
            if re.fullmatch(r"(benchmarks|experiments|examples|tests|docs)/\S+\.py", word):
                yield word, [option.partition("=")[0] for option in words[place + 1 :] if option.startswith("--")]


@pytest.mark.parametrize("path", [path for path in TEXTS if commands(path)], ids=name_of)
def test_commands_are_understood(path):
    for words in commands(path):
        if words and not words[0].startswith("-") and re.fullmatch("[a-z]+", words[0]):
            try:
                parse(words)
            except SystemExit as end:
                pytest.fail(f"{name_of(path)}: jaxscape {shlex.join(words)}: {end}")


@pytest.mark.parametrize("path", [path for path in TEXTS if [*scripts(path)]], ids=name_of)
def test_scripts_are_there_and_know_their_options(path):
    for script, options in scripts(path):
        source = (ROOT / script).read_text()
        shared = (ROOT / "experiments" / "command.py").read_text() if script.startswith("experiments") else ""
        for option in options:
            assert f'"{option}"' in source + shared, f"{name_of(path)}: {script} {option}"
