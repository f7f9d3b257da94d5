"""Every page of documentation is true: its code prints what is shown, and its links lead on."""

import itertools
import re

import pytest
from snippets import ROOT, SnippetError, broken_links, check_page, updated

from tasks import registry
from tasks.cli import _parser
from tasks.report import MADE

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]
# A report is what programs have printed, not what a page promises.
WRITTEN = [n for n in NAMES if not (ROOT / n).read_text(encoding="utf-8").startswith(MADE)]
OPTIONS = {
    option[2:].replace("-", "_")
    for option in _parser().get_default("known_options")
    if option.startswith("--")
}


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("name", WRITTEN)
def test_the_snippets_run_and_print_what_the_page_shows(name):
    check_page((ROOT / name).read_text(encoding="utf-8"), name)


@pytest.mark.usefixtures("registry")
def test_the_readme_has_a_tour_that_is_run():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert check_page(page, "README.md") >= 1


@pytest.mark.parametrize("name", NAMES)
def test_links_into_the_project_lead_somewhere(name):
    assert broken_links(ROOT / name) == []


def commands(page):
    """The lines of a page's shell blocks, in order."""
    found = re.findall(r"^```sh\n(.*?)^```", page, flags=re.M | re.S)
    return [line for block in found for line in block.splitlines()]


def test_the_chinese_readme_has_the_commands_of_the_english_one():
    english, chinese = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/zh/README.md")
    )
    assert commands(english) == commands(chinese) != []
    assert "(docs/zh/README.md)" in english.splitlines()[0]
    # Commands within sentences, such as those for a GPU: each of one page stands in the other.
    inline = [set(re.findall(r"`((?:pip|python) [^`]*)`", page)) for page in (english, chinese)]
    assert inline[0] == inline[1]


def test_commands_that_run_experiments_name_experiments_and_settings_that_exist():
    """On every page, also in sentences and tables, where nothing is executed."""
    seen = 0
    for name in NAMES:
        page = (ROOT / name).read_text(encoding="utf-8")
        for command in re.findall(r"python -m tasks (?:run|show) ([a-z0-9_ ./-]+)", page):
            words = command.split()
            names = list(itertools.takewhile(lambda word: not word.startswith("-"), words))
            chosen = registry.select(names)
            settings = {s for task in chosen for s in task.settings.names()}
            for option in (w[2:].replace("-", "_") for w in words if w.startswith("--")):
                assert option in settings | OPTIONS, f"{name}: {command}: no --{option}"
            seen += 1
    assert seen > 20


# -- the runner itself: it would notice ---------------------------------------------------------

PAGE = """Some words.

```python
import math
x = 2
```

```python
print(x * 3)
```

```text
6
```
"""


def test_a_page_that_is_right_passes():
    assert check_page(PAGE, "page.md") == 2


def test_blocks_share_a_namespace_but_pages_do_not():
    check_page("```python\nonly_here = 1\n```\n", "first.md")
    with pytest.raises(SnippetError, match=r"second\.md:2: NameError"):
        check_page("```python\nonly_here\n```\n", "second.md")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (("\n6\n", "\n7\n"), r"page\.md:13: the code of line 9 prints something else:(.|\n)*-7\n"),
        (("x * 3", "x / 0"), r"page\.md:9: ZeroDivisionError"),
        (("x * 3", "x *"), r"page\.md:9: invalid syntax"),
        (("```text\n6\n```\n", ""), r"page\.md:9: this block prints, but"),
        (("```text", "Words.\n\n```output"), r"page\.md:14: no Python block stands right above"),
        (("\n6\n```\n", "\n6\n"), r"page\.md:12: this block is never closed"),
        (("print(x * 3)", ">>> x * 3"), r"page\.md:9: write plain code"),
        (("```python\nprint", "```python file=nosuch.py\nprint"), r"page\.md:9: there is no file"),
    ],
)
def test_a_page_that_is_wrong_is_told_where(fault, message):
    assert fault[0] in PAGE
    with pytest.raises(SnippetError, match=message):
        check_page(PAGE.replace(*fault), "page.md")


def test_a_quotation_must_stand_in_its_file():
    quote = "```python file=tests/test_docs.py\n{}\n```\n"
    body = "assert broken_links(ROOT / name) == []"
    check_page(quote.format(body), "page.md")
    with pytest.raises(SnippetError, match="do not stand like this"):
        check_page(quote.format(body.replace("ROOT / name", "name / ROOT")), "page.md")


def test_update_writes_the_present_output():
    wrong = PAGE.replace("\n6\n", "\n7\nold\n")
    assert updated(wrong, "page.md") == PAGE
