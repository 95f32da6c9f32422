"""Dress around an answer: LaTeX, Markdown, HTML, marks of models, quotes. `undress` takes it off.

What is taken off says how an answer looks and nothing of what it is: `$\\boxed{\\text{ B }}$` is "B".
"The answer is" and brackets are no dress, since published rules read them in ways of their own.
"""

from __future__ import annotations

import re
from html import unescape

# Most answers are bare, and cost one search.
_MARKED = re.compile(r"[\\*_`$<&{~#\"'“‘«「『]")

MAX_LAYERS = 16  # of dress in dress; people write three, and a hostile text 2,000

# LaTeX. A command of one group is its content; the names are read with one backslash or two, because
# replies that went through JSON twice have two.
_GROUPED = (
    "boxed|fbox|mbox|hbox|text|textbf|textit|textrm|textsf|texttt|textnormal|textup|textsc|emph"
    "|underline|overline|mathrm|mathbf|mathit|mathsf|mathtt|mathbb|mathcal|mathnormal|bm|boldsymbol"
    "|operatorname|ensuremath|pmb|large|Large|huge"
)
_BRACES = re.compile(
    r"\\[{}]"  # a brace that is printed
    rf"|(?P<dress>\\{{1,2}}(?P<name>{_GROUPED})\*?\s*\{{|\\{{1,2}}(?:text)?color\s*\{{\w*\}}\s*\{{"
    r"|\{\s*\\{1,2}(?:rm|bf|it|tt|sf|em|bfseries|itshape|Large|large)\b\s*)"
    r"|(?P<open>\{)|(?P<close>\})"
)
_BOXED = re.compile(r"\\boxed\s*(?:\{|\s([^\s\\{}$]+))")
_BRACE = re.compile(r"\\[{}]|[{}]")
_COMMAND = re.compile(r"(\\{1,2})([a-zA-Z]+)\*?(?:[ \t]+(?=\\))?|(\\{1,2})([^a-zA-Z0-9])|~(?=\\)")
_SIGN_NAMES = {  # what a command is written for: its names
    "→": "rightarrow to longrightarrow Rightarrow Longrightarrow implies mapsto longmapsto leadsto"
    " rightsquigarrow hookrightarrow rightharpoonup Longmapsto xrightarrow",
    " ": "quad qquad enspace enskip thinspace medspace thickspace space , ; : > ~",
    "": "left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle rm bf it tt sf em"
    " bfseries itshape large Large boxed text mathrm mathbf centering noindent ! / ( ) [ ]",
    "...": "ldots dots cdots dotsc",
    "|": "mid vert lvert rvert |",
    "\n": "n newline par linebreak",
    "\n- ": "item",
    "\\frac": "dfrac tfrac",
    "°": "circ degree",
    "μ": "mu micro",
    "′": "prime",
    "×": "times",
    "·": "cdot",
    "±": "pm",
    "≈": "approx simeq",
    "~": "sim",
    "≤": "le leq",
    "≥": "ge geq",
    "≠": "ne neq",
    "<": "lt",
    ">": "gt",
    **{mark: mark for mark in "$#&_{}*.-+"},
    "%": "percent %",
}
_SIGNS = {" ": " "} | {name: sign for sign, names in _SIGN_NAMES.items() for name in names.split()}
_RAISED = re.compile(r"\^\s*\{\s*([^{}\s]{1,4})\s*\}|\^\s*(?=[°′])|(?<=[0-9])\{,\}(?=[0-9])")
_AROUND = re.compile(r"\\(?:begin|end)\s*\{\w{1,20}\*?\}")

# Markdown, HTML and the marks that models put around an answer (`<|begin_of_box|>` is of GLM).
_MARKUP = re.compile(r"\*\*|`{3}\w*|`|\$")
_TAGS = re.compile(
    r"</?(?:b|strong|i|em|u|code|pre|p|span|div|mark|center|font|small|s|answer)(?:\s[^<>]{0,200})?>"
    r"|<\|(?:begin_of_box|end_of_box|im_end|im_start|endoftext|eot_id|end_of_text|end)\|>"
    r"|<(?:eos|end_of_turn)>",
    re.IGNORECASE,
)
_BREAK = re.compile(r"<br\s{0,9}/?>|<sup>(?=[23]</sup>)|</sup>", re.IGNORECASE)
_HEADING = re.compile(r"#{1,6}\s+")
_AROUND_ALL = {
    '"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "「": "」", "『": "』", "*": "*", "_": "_",
    "{": "}",
}  # fmt: skip


def undress(text: str) -> str:
    """The answer without LaTeX, Markdown, HTML and quotes around the whole: until nothing changes."""
    text = text.strip()
    for _ in range(MAX_LAYERS):
        if not _MARKED.search(text):
            break
        bare = _undress_once(text).strip()
        if bare == text:
            break
        text = bare
    return text


def last_boxed(text: str) -> str | None:
    """The content of the last `\\boxed{…}`, with its inner braces; None if there is none."""
    found = max(_BOXED.finditer(text), key=re.Match.start, default=None)
    if found is None:
        return None
    return found[1] or text[found.end() : _closing(text, found.end())]


def _closing(text: str, begin: int) -> int:
    """Where the group that was opened just before `begin` is closed; the end if it never is."""
    depth = 1
    for brace in _BRACE.finditer(text, begin):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return len(text)


def _undress_once(text: str) -> str:
    if "$" in text:
        text = text.replace("~", " ")
    if "\\" in text:
        text = _without_latex(_only_boxed(text))
    if "{" in text or "^" in text:
        text = _RAISED.sub(_raised, text)
    if "*" in text or "`" in text or "$" in text:
        text = _MARKUP.sub("", text)
    if "<" in text:
        text = _BREAK.sub(_broken, _TAGS.sub("", text))
    if "&" in text and ";" in text:
        text = unescape(text)
    text = text.strip()
    if text[:1] == "#":
        text = _HEADING.sub("", text, count=1)
    return _without_quotes(text)


def _only_boxed(text: str) -> str:
    """The content of the one `\\boxed{}` that stands here; of several, all stay with what is between."""
    found = _BOXED.search(text)
    if found is None:
        return text
    if found[1]:
        return found[1] if not _BOXED.search(text, found.end()) else text
    end = _closing(text, found.end())
    return text if _BOXED.search(text, end) else text[found.end() : end]


def _without_latex(text: str) -> str:
    if "{" in text:
        text = _open_groups(_AROUND.sub("", text))
    return _COMMAND.sub(_sign, text)


def _open_groups(text: str) -> str:
    """`\\text{a}` becomes a, at any depth, in one pass; other groups keep their braces."""
    parts: list[str] = []
    dressed: list[bool] = []
    at = 0
    for brace in _BRACES.finditer(text):
        drop = False
        if brace["dress"] or brace["open"]:
            drop = bool(brace["dress"])
            dressed.append(drop)
        elif brace["close"]:
            drop = bool(dressed) and dressed.pop()
        if drop:
            parts.append(text[at : brace.start()])
            at = brace.end()
    return "".join(parts) + text[at:]


def _sign(command: re.Match[str]) -> str:
    if command[2]:
        sign = _SIGNS.get(command[2])
        if sign is None:  # "a\\b" is a break of the line and then b
            return command[0] if len(command[1]) == 1 else f"\n{command[2]}"
        return sign
    if not command[4]:
        return " "
    otherwise = command[0] if len(command[3]) == 1 else f"\n{command[4]}"
    return _SIGNS.get(command[4], otherwise)


def _raised(match: re.Match[str]) -> str:
    """`10^{2}` is 10^2, `30^{°}` is 30°, and `1{,}200` is 1,200."""
    if match[1]:
        return match[1] if match[1] in "°′" else f"^{match[1]}"
    return "," if match[0][0] == "{" else ""


def _broken(tag: re.Match[str]) -> str:
    return "\n" if tag[0][1] in "bB" else "^" if tag[0][1] != "/" else ""


def _without_quotes(text: str) -> str:
    """Without quotes, stars or braces around the whole; JSON keeps its braces."""
    left, right = 0, len(text)
    keys = ":" in text or "," in text
    while right - left > 1 and _AROUND_ALL.get(text[left]) == text[right - 1]:
        if text[left] == "{" and keys:
            break
        left, right = left + 1, right - 1
        while left < right and text[left].isspace():
            left += 1
        while right > left and text[right - 1].isspace():
            right -= 1
    return text[left:right]
