"""Output that is in one language: sentences of the other one that were left over."""

from __future__ import annotations

import re

from tests.support.project import REPORT

WORD = r"[A-Za-z][A-Za-z']*"
SENTENCE = re.compile(rf"(?<![\w/.='\"-])(?:{WORD},? ){{3,}}{WORD}(?![\w/=])")
# What is the same in both languages: commands to paste, and texts that were stored before.
COMMAND = re.compile(r"(?:git|python|pip|curl|mlflow) .*|`[^`]*`|\"[^\"]*\"")
HANGUL = re.compile("[가-힣]")


def left_over(output: str, language: str, *names: str) -> list[str]:
    """Return what of an output is in another language than `language`; `names` are values that are stored in one.

    English within a Korean text is found from four words in a row; Korean is allowed in the report for Git only.
    """
    for name in names:
        output = output.replace(name, "")
    if language == "ko":
        return SENTENCE.findall(COMMAND.sub("", output))
    return [line for line in REPORT.sub("", output).splitlines() if HANGUL.search(line)]
