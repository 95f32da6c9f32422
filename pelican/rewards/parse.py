"""From the text of an answer to its value: the answer in a completion, choices, lists, plain texts.

Numbers, lengths and times are read by `quantities.py`, points and boxes by `coordinates.py`. The
import of data reads by the same functions, so that what a source says can be earned.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from pelican.base.parse import parse_json
from pelican.rewards.base import Unscorable
from pelican.rewards.dress import last_boxed, undress
from pelican.rewards.scripts import JOINED, NO_WORD_AFTER, NO_WORD_BEFORE, plain_characters, touches

# The answer inside a completion, without its thinking, tags, dress and "The answer is".

MAX_ANSWER_CHARS = 8000

_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_STATEMENT = re.compile(
    r"\banswer\s*(?:is\b|:|=)\s*:?|(?:答案|正解)(?:应该)?(?:是|为|為|は|[:=])\s*:?", re.IGNORECASE
)
_LEAD = re.compile(
    r"\s*(?:(?:so|thus|hence|therefore)\s*,?\s+)?(?:the\s+|my\s+)?"
    r"(?:final\s+|correct\s+|best\s+|right\s+|short\s+)?"
    r"(?:answer|order|sequence|plan|steps|option|choice|ans\b\.?)\s*(?:is\b|are\b|:|=)\s*:?"
    r"|\s*(?:所以|因此|故)?,?\s*(?:最终|正确|最佳)?的?(?:答案|选项|選項|答え|正解|정답)"
    r"(?:应该)?(?:是|为|為|は|은|는|[:=])\s*:?|\s*(?:答|답)\s*[:]"
    r"|\s*(?:la\s+|die\s+)?(?:respuesta|réponse|resposta|risposta|antwort|ответ)\s*(?:es\b|est\b|ist\b|é\b|:)\s*:?",
    re.IGNORECASE,
)
# A reply that degenerates may be thousands of them, which every pattern that begins with blanks would read anew.
_BLANKS = re.compile(r"\s{9,}")
_JSON_KEYS = ("answer", "final_answer", "choice", "option", "steps", "plan", "order", "sequence")


@dataclass(frozen=True, slots=True)
class Extracted:
    """The answer's text; `tagged` if the completion marked it by `<answer>` or `\\boxed`."""

    text: str
    tagged: bool


def extract_answer(completion: str) -> Extracted:
    """What follows `</think>`; there inside `<answer>`, else the last `\\boxed{}`, else all of it.

    Of this, what follows the last "the answer is". An `<answer>` that was never closed runs to the
    end. A thought that never ended is no answer.
    """
    rest = completion.rpartition("</think>")[2]
    blocks = [block.strip() for block in _ANSWER.findall(rest)]
    if blocks:
        if len(blocks) > 1 and len({normalise(block) for block in blocks}) > 1:
            raise Unscorable("several answers", f"{len(blocks)} <answer> blocks")
        return _checked(plain_answer(blocks[0]), tagged=True)
    rest = rest.partition("<think>")[0]
    boxed = last_boxed(rest)
    if boxed is not None:
        return _checked(plain_answer(boxed), tagged=True)
    return _checked(plain_answer(rest), tagged=False)


def _checked(text: str, *, tagged: bool) -> Extracted:
    if not text:
        raise Unscorable("no answer")
    if len(text) > MAX_ANSWER_CHARS:
        raise Unscorable("refused", f"the answer is longer than {MAX_ANSWER_CHARS} characters")
    return Extracted(text, tagged)


def plain_answer(text: str) -> str:
    """An answer without dress and "The answer is", in plain characters, until nothing changes."""
    text = _bare(plain_characters(text))
    if text[:1] == "{" and '"' in text:
        text = _json_answer(text)
    stated = None
    if "answer" in text.lower() or not text.isascii():
        stated = max(_STATEMENT.finditer(text), key=re.Match.start, default=None)
    if stated:  # prose that ends in "… the answer is B."
        text = _bare(text[stated.end() :])
    while lead := _LEAD.match(text):
        text = _bare(text[lead.end() :])
    return text


def _bare(text: str) -> str:
    """A text without dress, and without long runs of blanks; one that breaks a line still does."""
    return _BLANKS.sub(lambda run: "\n" if "\n" in run[0] else " ", undress(text))


def _json_answer(text: str) -> str:
    """What `{"answer": …}` holds; other JSON, such as a point's, as it is."""
    try:
        value = parse_json(text)
    except ValueError:
        return text
    found = [value[key] for key in _JSON_KEYS if isinstance(value, dict) and key in value]
    if len(found) != 1:
        return text
    return _bare(found[0]) if isinstance(found[0], str) else json.dumps(found[0])


# Choices.

_BARE = rf"{NO_WORD_BEFORE}(?<!['’])"
_LONE_LETTER = re.compile(r"[(\[]?\s*([A-Za-z])\s*[)\]]?\s*[.:,。、]?")
# "(B) the cup", "Option B: the cup", 选B
_OPENING = re.compile(
    r"(?:(?:option|choice|answer|letter)\s+|[应應故]?选项?|選項?)?[(\[]?([A-Za-z])(?:([)\]][.:,]?|\s*[.:,、。-])|(?=\s))\s*",
    re.IGNORECASE,
)
_LABEL = re.compile(rf"{_BARE}[(\[]?([a-z])[)\].:]{NO_WORD_AFTER}")
_MENTION = re.compile(rf"{_BARE}[(\[]?([A-Z])[)\]]?{NO_WORD_AFTER}(?!['’])")
_NAMED = re.compile(
    rf"\b(?:option|choice|answer|letter)\s+[(\[]?([a-z]){NO_WORD_AFTER}(?!['’])", re.IGNORECASE
)
_PROSE = re.compile(
    r"\s+(?!(?:or|and|then|is|not|nor|but|also|plus|vs|versus|to|maybe|perhaps|possibly|either|if)\b)[a-z]{2}"
)
_BETWEEN_SCRIPTS = re.compile(rf"(?<=[{JOINED}])(?=[a-z0-9])|(?<=[a-z0-9])(?=[{JOINED}])")
_LONE = re.compile(rf"{_BARE}([a-z]){NO_WORD_AFTER}(?!['’])")


def parse_choice(text: str, options: Sequence[str]) -> str:
    """The letter of the one option that is named: "B", "(b)", "B. text" or the option's text."""
    lone = _LONE_LETTER.fullmatch(text)
    if lone:
        letter = lone[1].upper()
        if ord(letter) - ord("A") >= len(options):
            raise Unscorable("unreadable", f"letter {letter} is outside {len(options)} options")
        return letter
    texts = [normalise(option) for option in options]
    opening = _OPENING.match(text)
    if opening:  # an option's own text may hold letters, as "(B) A push" does
        letter, said = opening[1].upper(), normalise(text[opening.end() :])
        if said in texts and texts.index(said) == ord(letter) - ord("A"):
            return letter
        if said in texts and opening[2]:
            raise Unscorable("several answers", f"{letter} with another option's text")
    hits = [i for i, option in enumerate(texts) if option == normalise(text)]
    if len(hits) == 1:
        return chr(ord("A") + hits[0])
    letters = set()
    spans = []
    for mention in _mentions(text):
        letter = mention[1].upper()
        if ord(letter) - ord("A") < len(options):
            letters.add(letter)
            spans.append(mention.span())
    if not letters:
        raise Unscorable("unreadable", "no option is named")
    rest = text
    for start, end in sorted(spans, reverse=True):
        rest = rest[:start] + " " + rest[end:]
    mentioned = letters | _options_in(rest, texts)
    if len(mentioned) > 1:
        raise Unscorable("several answers", ", ".join(sorted(mentioned)))
    if any(_is_denied(text, start, end) for start, end in spans):
        raise Unscorable("unreadable", "an option is denied, and none is named")
    return letters.pop()


# "not B", "all but B", "B is wrong", 不是B
_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|no|except|without|excluding|than|unlike|(?:rul(?:e|es|ed|ing)|cross(?:ed)?)\s+out|eliminated?"
    r"|(?:all|anything|everything|any)\s+but)\s|n['’]t\s|不是|不选|不選|并非|排除|除了)"
    r"\s{0,3}(?:be\s|option\s|choice\s|the\s)?\s{0,3}$",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"[)\].]?\s{0,3}(?:(?:is|was|must be|seems)\s+)?(?:wrong|incorrect|false|impossible|ruled\s+out|excluded)\b"
    r"|[)\].]?\s{0,3}(?:(?:is|was)\s+not|(?:is|was|ca)n['’]t|cannot)\s+(?:be\b|correct|right|true|the\b|possible)"
    r"|\s?(?:不对|不對|错|錯|不正确|不正確)",
    re.IGNORECASE,
)


def _is_denied(text: str, start: int, end: int) -> bool:
    before = text[max(0, start - 32) : start]
    return bool(_DENIED_BEFORE.search(before) or _DENIED_AFTER.match(text, end))


def _mentions(text: str) -> Iterator[re.Match[str]]:
    """Letters that may name an option: capitals, and in "b) red" and "option b" small ones.

    "A" and "I" before a word are English where a sentence or an option begins ("B. A cup is there");
    at the start of the text, before another letter, they are taken for hedging ("A maybe B").
    """
    small = _LABEL.match(text) is not None
    found = [*_MENTION.finditer(text), *(_LONE.finditer(text) if small else ())]
    named = [] if small else [match for match in _NAMED.finditer(text) if match[1].islower()]
    for mention in found:
        bare = mention[0] == mention[1] and mention[1] in "AIai"
        if bare and _PROSE.match(text, mention.end()):
            before = text[: mention.start()].rstrip()
            if mention[1].islower() or before.endswith((".", "!", "?", ")", "]", ":")):
                continue
            if len(found) + len(named) == 1:
                continue
        yield mention
    yield from named


def _options_in(text: str, options: Sequence[str]) -> set[str]:
    """Letters of the options whose text stands in `text`; the longest is looked for first."""
    found = set()
    padded = f" {normalise(text)} "
    if not text.isascii():
        padded = _BETWEEN_SCRIPTS.sub(" ", padded)
    for index in sorted(range(len(options)), key=lambda i: -len(options[i])):
        needle = options[index] if touches(options[index]) else f" {options[index]} "
        if needle in padded:
            padded = padded.replace(needle, "  ")
            found.add(chr(ord("A") + index))
    return found


# Yes or no.

_SAID = {  # what is said: in words between spaces, and in scripts without them
    True: (
        "yes yeah yep true oui sí ja sim да",
        "是的 是 对的 对 對 正确 正確 有的 有 可以 能 会 會 はい ええ 네 예 ใช่",
    ),
    False: (
        "no nope false non nein não нет",
        "不是 不对 不對 不 否 没有 沒有 没 错误 錯誤 错 いいえ いえ 아니요 아니오 아니 ไม่",
    ),
}
# Said alone they answer; inside a sentence they are something else.
_ALONE = {
    word: said
    for said, words in (
        (True, "y t si correct affirmative certainly definitely absolutely indeed ✓ ✔ ✅ ☑"),
        (False, "n f nee nej incorrect negative ✗ ✘ ❌ ✖"),
    )
    for word in words.split()
}
YES_NO = {word: said for said, words in _SAID.items() for word in " ".join(words).split()}
_SPACED = "|".join(" ".join(spaced for spaced, _ in _SAID.values()).split())
_UNSPACED = sorted(" ".join(joined for _, joined in _SAID.values()).split(), key=len, reverse=True)
# "no." before a number is "number", and "no" before a noun, as in "yes, no doubt", no answer.
_POLARITY = re.compile(
    rf"{NO_WORD_BEFORE}({_SPACED})(?!\w|-\w)(?!\.?\s*#?[0-9])"
    r"(?!(?<=no)\s+(?:idea|clue|doubt|answer|comment|info(?:rmation)?|way\s+(?:to|of)|problem)\b)",
    re.IGNORECASE,
)
_NO_OF_NOUN = re.compile(
    r"\s+(?!(?:it|its|i|they|he|she|we|there|that|this|the|or|and|but|yes|wait|maybe|not|is|was)\b)[a-z]{2}",
    re.IGNORECASE,
)
_JOINED_FIRST = re.compile("|".join(_UNSPACED))
_ALTERNATIVE = re.compile(r"\s*(?:/|或者?|还是|還是|和|、|,|か|또는)\s*")


def parse_yes_no(text: str) -> bool:
    """Yes or no, by the first word; both words in one answer are refused."""
    word = text.rstrip(".!").lower()
    bare = YES_NO.get(word, _ALONE.get(word))
    if bare is not None:
        return bare
    start = text.lstrip(" ([")
    first = _POLARITY.match(start) or _JOINED_FIRST.match(start)
    if not first:
        raise Unscorable("unreadable", "neither yes nor no")
    said = YES_NO[first[0].lower()]
    others = {
        YES_NO[other[0].lower()]
        for other in _POLARITY.finditer(start, first.end())
        if not (other[0].lower() == "no" and _NO_OF_NOUN.match(start, other.end()))
    }
    if not start.isascii() and (either := _ALTERNATIVE.match(start, first.end())):
        second = _JOINED_FIRST.match(start, either.end())
        others |= {YES_NO[second[0]]} if second else set()
    if others - {said}:
        raise Unscorable("several answers", "yes and no")
    return said


# Lists, such as steps.

MAX_ITEMS = 100

_NUMBERED = re.compile("[0-9第]")
_NUMERAL = r"(?:[0-9]{1,3}|[一二三四五六七八九十]{1,2})"
_MARK = re.compile(
    r"\s*(?:(?:step\s*)?\(?[0-9]{1,3}[.):、](?![0-9])|step\s+(?:[0-9]+|one|two|three|four|five|six|seven|eight|nine|ten)\b[.):]?"
    rf"|第{_NUMERAL}步?[:,、.]?|[-*•·●▪◦])\s*",
    re.IGNORECASE,
)
_INLINE_MARK = re.compile(
    rf"(?:^|(?<=[\s;,.。、{JOINED}]))(?:(?:step\s*)?\(?[0-9]{{1,3}}[.):、]\s*(?![0-9])|第{_NUMERAL}步[:,、]?)|[(\[][0-9]{{1,2}}[)\]]",
    re.IGNORECASE,
)
_LETTER_MARK = re.compile(r"(?:^|(?<=[\s;,]))\(?([a-z])[).]\s+", re.IGNORECASE)
_ARROWS = "→➔➙➛➜➝➞➟➠➡➢➣➤➥➦➨➩➪➫➬➭➮➯➱➲➳➵➸➺➻➼➽➾⟶⟹⟼⟾⇒⇨⇝⇾↦↪⤳⮕▶►»›"
_ARROW = re.compile(rf"\s*(?:[-=~]{{1,9}}>|>{{1,9}}|[{_ARROWS}]\ufe0f?)\s*")
_ARROW_SIGN = re.compile(f"[>{_ARROWS}]")
_PARTING = re.compile(f"""[0-9第().;|'"\\[>{_ARROWS}]""")
_COMMA = re.compile(r"[,、]\s*")
_SENTENCE = re.compile(r"(?<=[a-z)\"'])[.!]\s+(?=[A-Z])|。\s*")
_THEN = re.compile(r"\s+(?:and\s+)?then\s+|\s+[-–—/·•&‖¦]\s+|\s*然后再?\s*", re.IGNORECASE)
_AND = re.compile(r"\s+(?:and\s+then|and|then)\s+|\s*[和与]\s*")
_QUOTED_COMMA = re.compile(r"""['"]\s*,\s*['"]""")
_JOINS = {
    f"{lead}{join}"
    for lead in ("", "and ")
    for join in ("then", "next", "first", "second", "third", "finally", "lastly", "after that")
}
_FIRST = re.compile(
    r"\s*first(?:ly)?\s*[,:]?\s+(?=.*\b(?:then|next|finally|second)\b)", re.IGNORECASE
)
_JOINER = re.compile(
    r"(?:and\s+then|and\s+finally|and\s+lastly|finally|lastly|and|then|next|first(?=,|:|ly\b)(?:ly)?|after that)[,:]?\s+"
    r"|然后再?|接着|最后|最終|首先|先|再|そして|次に|まず",
    re.IGNORECASE,
)


_JOINER_STARTS = frozenset("afntlAFNTL然接最首先再そ次ま")


def parse_list(text: str) -> list[str]:
    """Items, normalised: lines, "1. a 2. b", "a; b", "a > b", "a | b" or "a, b", in this order."""
    keys = [key for item in split_list(text) if (key := item_key(item))]
    if not keys:
        raise Unscorable("unreadable", "no list")
    if len(keys) > MAX_ITEMS:
        raise Unscorable("refused", f"{len(keys)} items, at most {MAX_ITEMS} are scored")
    return keys


def split_list(text: str) -> list[str]:
    """The items as they are written, without their marks; one where nothing parts them."""
    if text[:1] == "[" and text[-1:] == "]":
        text = text[1:-1]
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        items = [line[mark.end() :] for line in lines if (mark := _MARK.match(line))] or lines
    else:
        items = [_without_mark(item) for item in _line_items(text)]
    return [item for item in items if item.strip(" ;,.。")]


def _line_items(text: str) -> list[str]:
    if not _PARTING.search(text):  # most lists are "a, b, c"
        return _prose_items(text)
    if _NUMBERED.search(text) and len(_INLINE_MARK.findall(text)) > 1:
        return _INLINE_MARK.split(text)[1:]
    if (")" in text or "." in text) and _are_letters(_LETTER_MARK.findall(text)):
        return _LETTER_MARK.split(text)[2::2]
    if ";" in text:
        return text.split(";")
    if _ARROW_SIGN.search(text):
        return _ARROW.split(text)
    if "|" in text:
        return text.split("|")
    if ("'" in text or '"' in text) and _QUOTED_COMMA.search(text):
        return _QUOTED_COMMA.split(text)
    return _prose_items(text)


def _prose_items(text: str) -> list[str]:
    first = _FIRST.match(text)
    if first:
        text = text[first.end() :]
    if "." in text or "!" in text or "。" in text:
        sentences = [part for part in _SENTENCE.split(text) if part.strip()]
        if len(sentences) > 1:
            return sentences
    parts = _COMMA.split(text)
    if len(parts) == 1:
        return _THEN.split(text)
    # A comma behind "then" parts no items.
    return [part for part in parts if part.strip().lower() not in _JOINS] or parts


def _without_mark(item: str) -> str:
    mark = _MARK.match(item)
    return item[mark.end() :] if mark else item


def _are_letters(marks: Sequence[str]) -> bool:
    """Whether marks are a, b, c, …"""
    return len(marks) > 1 and all(
        ord(mark.lower()) == ord("a") + at for at, mark in enumerate(marks)
    )


def item_key(item: str) -> str:
    """An item as it is compared: normalised, without "and", "then" or "finally" at its start."""
    item = item.strip()
    at = 0
    while item[at : at + 1] in _JOINER_STARTS and (joiner := _JOINER.match(item, at)):
        at = joiner.end()
    return normalise(item[at:])


def part_at_and(items: Sequence[str], known: Collection[str]) -> list[str]:
    """`items` with "b and c" as two where both are `known`, and the whole is not."""
    parted: list[str] = []
    for item in items:
        parts = [item] if item in known else _AND.split(item)
        parted += parts if set(parts) <= set(known) else [item]
    return parted


# `normalise`: the form in which texts are compared.

_DROPPED = re.compile(r"_|(?<![0-9])\.|\.(?![0-9])|-(?![0-9])|(?<=\w)-|[^\w\s.%°+-]")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """Case, spaces, punctuation and articles aside; what is nothing else is kept as it is."""
    folded = plain_characters(text).casefold()
    plain = _DROPPED.sub(" ", folded)
    bare = " ".join(_ARTICLES.sub(" ", plain).split())
    return bare or " ".join(plain.split()) or " ".join(folded.split())


@lru_cache(maxsize=1 << 12)
def reference_key(text: str) -> str:
    """A reference as a reply that says it is compared: "Answer: red" is red."""
    return normalise(plain_answer(text)) or normalise(text)
