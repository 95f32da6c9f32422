"""Numbers, lengths and times from the text of an answer, in digits or words, with their units.

What stands beside a number and changes it must be understood: "1.2 miles" is no 1.2, and "one
hundred" no 1. The tables below are the units and the number words; docs/rewards.md shows them.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

from pelican.rewards.base import Unscorable
from pelican.rewards.scripts import JOINED, NO_WORD_AFTER, NO_WORD_BEFORE

# Number words become digits: "twenty-one", "a dozen", "three hundred and five", 十二个.

ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
_TENS = ["thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS = {word: value for value, word in enumerate(ONES)} | {
    word: 10 * value for value, word in enumerate(_TENS, 3)
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "dozen": 12}
_HAN_SCALES = {"百": 100, "千": 1000, "万": 10**4, "萬": 10**4, "亿": 10**8}
_WORD = "|".join(sorted(_WORDS, key=len, reverse=True))
_SCALE = "|".join(_SCALES)
_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+"
_SPELLED = re.compile(
    rf"\b(?:{_WORD}|half\s+an?\b|an?[\s-]+(?=(?:{_SCALE})\b)(?:{_SCALE}))\b"
    rf"(?:(?:[\s-]+|\s+and\s+)(?:{_WORD}|{_SCALE})\b)*(?P<half>\s+and\s+(?:a|one)[\s-]+half\b)?"
    r"(?P<part>(?:[\s-]+(?:thirds?|quarters?|half|halves|fifths?|sixths?|eighths?|tenths?|trillion"
    r"|score|gross)|-(?:first|second|fourth|seventh|ninth))\b)?"
)
_SCALED = re.compile(
    rf"{NO_WORD_BEFORE}(?<!\.)({_DIGITS})(?:\s*(?:({_SCALE})s?|(k))\b|([百千万萬亿])(?![米克])"
    r"|(\s+and\s+a\s+half)\b)"
)
_HAN_DIGITS = {c: n for n, c in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2, "兩": 2}
_COUNTED = (
    "秒米厘毫公英个個只隻把张張条條辆輛块塊本台臺杯件支名位次步根颗顆枚瓶盒扇座つ匹人碗盘盤种種"
)
_HAN_NUMERAL = f"[十百{''.join(_HAN_DIGITS)}]"
_HAN = re.compile(
    rf"(?<![点點]|{_HAN_NUMERAL})({_HAN_NUMERAL}{{1,7}})(?:[点點]([{''.join(_HAN_DIGITS)}]{{1,7}}))?(?=[{_COUNTED}])"
    rf"|^({_HAN_NUMERAL}{{1,7}})$"
)
_LETTER = re.compile(r"[a-z\u3007\u4e00-\u9fff]")


def with_digits(text: str) -> str:
    """`text`, in lower case, with digits for number words. Raises Unscorable for part of a number."""
    if not _LETTER.search(text):
        return text
    text = _SPELLED.sub(_spelled, text)
    if not text.isascii():
        text = _HAN.sub(_han, text)
    return _SCALED.sub(_scaled, text)


def _spelled(match: re.Match[str]) -> str:
    if match["part"]:
        raise Unscorable("unreadable", f"part of a number: {match[0][:40]!r}")
    end = match.start("half") if match["half"] else match.end()
    numbers = _values(re.split(r"[\s-]+", match.string[match.start() : end]))
    if match["half"]:
        numbers[-1] += 0.5
    return " ".join(f"{value:.12g}" if value < 1e12 else f"{value:.0f}" for value in numbers)


def _values(words: list[str]) -> list[float]:
    """The numbers that a run of words names, one after the other."""
    numbers: list[float] = []
    total = current = 0.0
    room = 0.0  # what may still be added: below 10 after "twenty", below 100 after "hundred"
    begun = False

    def close() -> None:
        if begun:
            numbers.append(total + current)

    for at, word in enumerate(words):
        if word == "and":
            room = room if room >= 100 else 0
        elif word in ("a", "an"):
            current = current if words[at - 1] == "half" and at else 1.0
            begun = True
        elif word == "half":
            close()
            total, current, begun, room = 0.0, 0.5, True, 0.0
        elif word in _SCALES:
            scale = _SCALES[word]
            if scale == 100 or word == "dozen":
                current *= scale
                room = 100.0 if scale == 100 else 0.0
            else:
                total, current, room = total + current * scale, 0.0, 1000.0
        else:
            value = _WORDS[word]
            if not begun or value >= room or value == 0:
                close()
                total, current = 0.0, 0.0
            current += value
            room = 10.0 if value >= 20 else 0.0
            begun = True
    close()
    return numbers


def _han(match: re.Match[str]) -> str:
    part = f".{_han_value(match[2])}" if match[2] else ""
    return f"{_han_value(match[1] or match[3])}{part}"


def _han_value(text: str) -> int:
    """十二 is 12, 三十 is 30, 两 is 2, 一百零五 is 105."""
    if not set(text) & set("十百"):
        return int("".join(str(_HAN_DIGITS[c]) for c in text))
    total = digit = 0
    for c in text:
        scale = {"十": 10, "百": 100}.get(c)
        if scale is None:
            digit = _HAN_DIGITS[c]
        else:
            total, digit = total + (digit or 1) * scale, 0
    return total + digit


def _scaled(match: re.Match[str]) -> str:
    value = number(match[1])
    scale = (
        _SCALES.get(match[2] or "") or _HAN_SCALES.get(match[4] or "") or (1000 if match[3] else 1)
    )
    return f"{value * scale + (0.5 if match[5] else 0):.12g}"


def number(token: str) -> float:
    """The value of a numeral. Raises Unscorable if it is infinite."""
    value = float(token.replace(",", ""))
    if not math.isfinite(value):
        raise Unscorable("unreadable", "a number without end")
    return value


# A bound or a denial names no value: "at least 4", "4 or more", "not 4".

_BOUND = re.compile(
    r"(?:\b(?:not|at\s+(?:least|most)|up\s+to"
    r"|(?:more|less|fewer|greater|larger|smaller|higher|lower|longer|shorter|other|rather)\s+than)\b|n['’]t\b"
    r"|至少|至多|最多|最少|超过|超過|不到|多于|多於|少于|少於|不止|不是)"
    r"\s*(?:(?:exactly|about|just|only|the|an?)\s+)?[-+]?\.?[0-9]"
    r"|(?<!\S)[<>≤≥≠]=?\s*[0-9.]++(?!\s*>)"
    r"|[0-9]\s*(?:[a-z]{1,12}\s+)?(?:or|and)\s+(?:more|less|fewer|above|below|over|under|up)\b"
    rf"|[0-9]\+(?!\s*[0-9])|[0-9]\s?[{JOINED}]{{0,3}}(?:以上|以下|以内)"
)


def _refuse_bound(text: str) -> None:
    if bound := _BOUND.search(text):
        raise Unscorable("unreadable", f"a bound or a denial, no value: {bound[0][:40]!r}")


# Counts.

_NUMBER = re.compile(  # "1.2.3" is no number, nor is its beginning
    rf"{NO_WORD_BEFORE}(?<!\.)([-+]?(?:{_DIGITS})(?:e[-+]?[0-9]{{1,3}})?)(?!\.?[0-9])(?!e[-+]?[0-9])"
    r"(?!(?:st|nd|rd|th)\b)"
)
_NONE = re.compile(
    r"\b(?:none|nothing|nobody)\b|(?:n[o']t|not)\s+(?:any|a\s+single)\b"
    r"|\bno\s+(?!(?:idea|clue|way|answer|comment|doubt|information|info|one|matter|longer|need|problem|image"
    r"|picture|photo|video|clear|sure|more\s+than|less|fewer)\b)[a-z]{2}"
    r"|^(?:没有|一个也没有|沒有|無|无|なし)"
)


def parse_count(text: str) -> float:
    """The one number of the text, in digits or words; 0 for "none" and "no cups"."""
    text = text.casefold()  # not lower(): the pattern takes "sİx" for "six", and lower() does not
    if not text.isdecimal():
        text = with_digits(text)
        _refuse_bound(text)
    found = {number(token) for token in _NUMBER.findall(text)}
    if not found:
        if _NONE.search(text):
            return 0.0
        raise Unscorable("unreadable", "no number")
    if len(found) > 1:
        raise Unscorable("several answers", f"{len(found)} numbers")
    return found.pop()


# Lengths and areas.

METRES = {"mm": 0.001, "cm": 0.01, "m": 1.0, "in": 0.0254, "ft": 0.3048}
_SPELLINGS: dict[float, str] = {  # in metres: how it is written, in the languages of the data sets
    1e-9: "nm nanometer nanometers nanometre nanometres",
    1e-6: "um μm micron microns micrometer micrometers micrometre micrometres 微米",
    0.001: "mm millimeter millimeters millimetre millimetres 毫米 公厘 ミリ ミリメートル 밀리미터"
    " millimètre millimètres milímetro milímetros мм",
    0.01: "cm centimeter centimeters centimetre centimetres 厘米 公分 センチ センチメートル 센티미터 센치"
    " zentimeter centimètre centimètres centímetro centímetros см сантиметр сантиметра сантиметров",
    0.1: "dm decimeter decimeters decimetre decimetres 分米 dezimeter",
    1.0: "m meter meters metre metres mtr mtrs 米 公尺 メートル 미터 mètre mètres metro metros м метр"
    " метра метров เมตร",
    1000.0: "km kms kilometer kilometers kilometre kilometres 千米 公里 キロ キロメートル 킬로미터"
    " kilomètre kilomètres kilómetro kilómetros км",
    0.0254: "inch inches 英寸 インチ 인치 zoll pouce pouces pulgada pulgadas",
    0.3048: "ft foot feet 英尺 フィート 피트",
    0.9144: "yd yds yard yards 码 ヤード",
    1609.344: "mi mile miles 英里 マイル",
    1852.0: "nmi 海里",
}
LENGTHS = {
    "in": METRES["in"],
    **{name: factor for factor, names in _SPELLINGS.items() for name in names.split()},
}
_MARKS = {"''": METRES["in"], '"': METRES["in"], "'": METRES["ft"]}
_NAMES = "|".join(sorted((u for u in LENGTHS if u != "in"), key=len, reverse=True))
_SQUARE = r"(?:square|sq\.?|quadrat|平方?)"
# "30 in" and "30 in tall" are inches, "30 in total" is not.
_INCH = (
    r"in(?![a-z])(?!\s+(?!(?:tall|wide|long|high|deep|thick|across|away|apart|from|or|and)\b)[a-z])"
)
_UNIT = (
    rf"(?P<square>{_SQUARE}[\s-]*)?(?:(?P<name>{_NAMES}|{_INCH})\.?"
    rf"(?:\^?(?P<power>[23])(?![0-9a-z])|\s+(?P<squared>squared|carrés?|cuadrados?|quadrados?))?{NO_WORD_AFTER}(?![\u0300-\u036f])"
    r"|(?P<sqm>s?q(?P<of>m|ft|cm|in))(?![a-z]))"
)
_FRACTION = r"(?:[0-9]+(?:\s+|-))?[0-9]+/[0-9]+(?![/0-9])"
_COMMA = r"(?:[0-9]{1,3}(?:\.[0-9]{3})+|[0-9]+),(?:[0-9]{1,2}|[0-9]{4,9})(?![0-9,])|0,[0-9]{1,9}(?![0-9,])"
_TEN = r"\s*[x×*·]\s*10\s*(?:\^|\*\*)\s*\(?(?P<ten>[-+]?[0-9]{1,3})\)?"
_LENGTH = re.compile(
    rf"{NO_WORD_BEFORE}(?<!\.)(?<![0-9],)(?P<sign>[-+]?)(?:(?P<fraction>{_FRACTION})|(?P<comma>{_COMMA})"
    rf"|(?P<digits>(?:{_DIGITS})(?:e[-+]?[0-9]{{1,3}})?)(?:{_TEN})?)"
    r"(?![.,]?[0-9])(?!e[-+]?[0-9])"
    rf"(?:\s*(?:-\s*)?(?:[(\[]\s*)?{_UNIT}|\s*(?P<mark>''|[\"']))?"
)
_BARE_LENGTH = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s?(mm|cm|m|in|ft)?")
_ANY_DIGIT = re.compile(r"\d")
# "1m20cm": a unit that touches the next number; "20m2" is an area.
_STUCK = re.compile(rf"(?<=[0-9])(\s*(?:{_NAMES}))(?=[0-9])(?![23](?![0-9a-z]))")
_FRAC = re.compile(r"\\frac\s{0,9}\{?([0-9]{1,9}?)\}?\s{0,9}\{?([0-9]{1,9})\}?")
_TOUCHING = re.compile(r"[a-z\u4e00-\u9fff][0-9]")

# What a number without a length's unit may not be followed by: another unit, or what looks like one.
_OTHER_UNITS = (
    "kg|g|mg|t|tons?|tonnes?|grams?|kilos?|kilograms?|lbs?|pounds?|oz|ounces?|stones?"
    "|ms|s|secs?|seconds?|mins?|minutes?|h|hrs?|hours?|days?|weeks?|months?|years?|frames?|fps"
    "|deg|degrees?|rad|radians?|celsius|fahrenheit|kelvin|px|pixels?|percent|per\\s+cent|pct"
    "|l|ml|cl|dl|litres?|liters?|gallons?|pints?|cc|cubic|n|newtons?|w|watts?|kw|kwh|v|volts?|amps?"
    "|joules?|j|cal|kcal|pa|kpa|bar|psi|hz|khz|mhz|ghz|rpm|db|lux|lumens?|mph|kph|kmh|knots?"
    "|dollars?|euros?|usd|eur|yuan|leagues?|furlongs?|fathoms?|rods?|chains?|nautical|thous?|mils?|parsecs?|pc|ly|au"
    "|light-?\\s?years?|hands?|fingers?|palms?|paces?|steps?|strides?|blocks?|tiles?|cells?|storeys?"
    "|stor(?:y|ies)|floors?|times|x|fold|hectares?|acres?|ha|hundred|thousand|million|billion|dozen|k"
)
_NO_UNITS = (
    "at|to|by|in|on|of|for|or|and|the|is|as|up|off|if|so|it|me|us|we|he|ok|yes|no|max|tot|avg|est|all"
    "|far|low|top|now|too|out|old|big|was|are|be|its|ish|st|nd|rd|th"
)
_LIKE_A_UNIT = re.compile(
    r"\s*(?:[(\[-]\s*)?[°%‰$€£¥^]|\s*/\s*[a-z]"
    rf"|\s*(?:[(\[-]\s*)?(?:{_OTHER_UNITS})(?![a-z'’-])"
    rf"|(?!(?:{_NO_UNITS})(?![a-z]))[a-zμωå]|\s*[a-zå]{{2,9}}(?:met(?:er|re)s?|str(?:o|ö)ms?)\b"
    rf"|\s+[(\[]?(?!(?:{_NO_UNITS})(?![a-z]))[a-zμωå]{{1,3}}(?:[)\].,;:!?]*\s*$|[/^·*])"
    r"|\s+(?:[a-z]+\s+){0,2}(?:lengths|widths|heights|diameters)\b"
)
_JOINED_UNIT = re.compile(
    rf"\s?(?!左右|上下|多|以|远|遠|高|长|長|宽|寬|的|到|至|和|与|或|くら|ぐら|ほど|です|で|정도|쯤|입)[{JOINED}]"
)
_COMPOUND = re.compile(
    rf"\s*(?:/\s*[a-z]|\^|\bper\b|[·*]\s*[a-z]|[pk]h\b|[半{''.join(_HAN_DIGITS)}])"
)
_SAME_LENGTH = 0.02  # "12 in (30 cm)" is one answer, rounded

_ASKS_AREA = re.compile(
    rf"\b{_SQUARE}[\s-]*(?:{_NAMES}|in)(?![a-z])|\bs?q(?:m|ft)\b|平方|平米|(?:\b|\()(?:{_NAMES})(?:\^2|²|2\b)"
    r"|㎡|quadratmeter|(?:mètres?|metros?)\s+(?:carr|cuadr|quadr)",
    re.IGNORECASE,
)


@lru_cache(maxsize=1 << 12)
def asks_area(question: str) -> bool:
    """Whether a question asks for square metres, feet or the like."""
    return _ASKS_AREA.search(question) is not None


_UNIT_ALONE = re.compile(_UNIT)
_ASKS_UNIT = re.compile(
    rf"\bin\s+(?:{_SQUARE}[\s-]*)?({_NAMES})(?<!metro)(?![a-z])(?!\s+(?:station|line)\b)"
    rf"|\bhow many\s+(?:{_SQUARE}[\s-]*)?({_NAMES})(?<!foot)(?<!feet)(?<!yards)(?![a-z])"
    r"|\bhow many\s+(feet|yards)\b(?=.{0,80}\b(?:away|tall|high|long|wide|apart|far|deep|distance|between|is|from)\b)"
    rf"|[(\[]\s*(?:in\s+|unit:?\s*)?(?:{_SQUARE}[\s-]*)?({_NAMES}|in)(?:\^?2|²)?\s*[)\]]"
    rf"|(?:多少|几|单位(?:是|为|[:：])?|以|用)\s*(?:平方)?({_NAMES})",
    re.IGNORECASE | re.DOTALL,
)
_OWN = {1e-9: "mm", 1e-6: "mm", 0.1: "m", 1000.0: "m", 0.9144: "ft", 1609.344: "m", 1852.0: "m"}
_OWN |= {factor: unit for unit, factor in METRES.items()}


def own_unit(name: str) -> tuple[str, float] | None:
    """One of METRES for a unit's name, and how many of it the unit is: "km" is 1000 of our "m"."""
    match = _UNIT_ALONE.fullmatch(name.strip().casefold())
    factor = LENGTHS.get(match["name"] or match["of"]) if match else None
    return (_OWN[factor], factor / METRES[_OWN[factor]]) if factor else None


@lru_cache(maxsize=1 << 12)
def asked_unit(question: str) -> str | None:
    """The unit, one of METRES, in which a question asks for a length or an area."""
    match = _ASKS_UNIT.search(question)
    name = next((group for group in match.groups() if group), "") if match else ""
    own = own_unit(name) if name else None
    return own[0] if own else None


def unit_in(text: str) -> str:
    """The name of the first unit of length behind a number; "" if there is none."""
    text = text.casefold()
    if not _ANY_DIGIT.search(text):
        try:
            text = with_digits(text)
        except Unscorable:
            return ""
    for match in _LENGTH.finditer(_STUCK.sub(r"\1 ", text)):
        name = match["name"] or match["of"]
        if name or match["mark"]:
            return name or ("ft" if match["mark"] == "'" else "in")
    return ""


_QUANTITY = re.compile(rf"[^0-9]{{0,20}}(?:{_DIGITS})")
_OTHER_UNIT = re.compile(
    rf"(?:,[0-9]+)?\s*(?:[(\[-]\s*)?(?:[°%‰€£¥]|(?:{_OTHER_UNITS})(?![a-z'’-]))"
    r"|\s*(?:公斤|千克|克|斤|吨|度|岁|元|秒|分钟|小时|天|年|升|毫升|초|분|시간|時間|キロ)"
)


def is_other_quantity(text: str) -> bool:
    """Whether a short text is a number of something that is no length: kilograms, percent, seconds."""
    text = text.casefold()
    match = _QUANTITY.match(text)
    if not match or len(text) > 40:
        return False
    rest = text[match.end() :]
    return _OTHER_UNIT.match(rest) is not None or re.search(r"[€£¥₹]\s?[0-9]", text) is not None


def parse_length(text: str, unit: str, *, area: bool = False) -> float:
    """The one length of the text in `unit`, or area in its square; a bare number is in `unit`.

    "5 ft 3 in" is a sum; "30 cm (0.3 m)" is one length.
    """
    bare = _BARE_LENGTH.fullmatch(text)
    if bare and not area:  # most replies
        return number(bare[1]) * METRES[bare[2] or unit] / METRES[unit]
    text = text.casefold()
    if "\\frac" in text:
        text = _FRAC.sub(r" \1/\2", text)
    if not _ANY_DIGIT.search(text):
        text = with_digits(text)
    elif _TOUCHING.search(text):
        text = _STUCK.sub(r"\1 ", text)
    _refuse_bound(text)
    asked = METRES[unit] ** (2 if area else 1)
    found: list[float] = []
    last_end, last_unit = -1, 0.0
    for match in _LENGTH.finditer(text):
        factor = _factor(match, text, area)
        value = _value(match) * (asked if factor is None else factor)
        between = text[last_end : match.start()].strip() if factor and last_unit else None
        if between in ("", "and", ",") and last_unit > (factor or 0) and 0 <= value < last_unit:
            found[-1] += value
        else:
            found.append(value)
        last_end, last_unit = match.end(), factor or 0.0
    if not found:
        raise Unscorable("unreadable", "no number")
    if any(abs(value - found[0]) > _SAME_LENGTH * abs(found[0]) for value in found):
        raise Unscorable("several answers", f"{len(found)} lengths")
    return found[0] / asked


def _factor(match: re.Match[str], text: str, area: bool) -> float | None:
    """Metres, or square metres, of a number's unit; None without one. Raises Unscorable."""
    name, mark = match["name"] or match["of"], match["mark"]
    if not name and not mark:
        end = match.end()
        if end < len(text) and (_LIKE_A_UNIT.match(text, end) or _JOINED_UNIT.match(text, end)):
            raise Unscorable("unreadable", f"no length: {text[match.start() : end + 12]!r}")
        if match["comma"]:
            raise Unscorable("several answers", f"{match['comma']!r} may be two numbers")
        return None
    factor = LENGTHS[name] if name else _MARKS[mark]
    squared = bool(match["square"] or match["sqm"] or match["squared"] or match["power"] == "2")
    if match["power"] == "3" or _COMPOUND.match(text, match.end()):
        raise Unscorable("unreadable", f"no length: {text[match.start() : match.end() + 12]!r}")
    if squared != area:
        said, wanted = ("an area", "a length") if squared else ("a length", "an area")
        raise Unscorable("unreadable", f"{said} where {wanted} is asked")
    return factor**2 if squared else factor


def _value(match: re.Match[str]) -> float:
    """A numeral's value: "47 1/4", "1,5", "1.2 × 10^2"."""
    sign = -1.0 if match["sign"] == "-" else 1.0
    if match["fraction"]:
        *whole, top, bottom = map(float, re.split(r"[\s/-]+", match["fraction"]))
        if not bottom:
            raise Unscorable("unreadable", "a number without end")
        return sign * (sum(whole) + top / bottom)
    if match["comma"]:
        return sign * float(match["comma"].replace(".", "").replace(",", "."))
    value = number(match["digits"])
    return sign * (number(f"{value!r}e{match['ten']}") if match["ten"] else value)


# Spans of time.

_SECONDS = {
    0.001: "ms millisecond milliseconds msec 毫秒",
    1.0: "s sec secs second seconds 秒钟 秒 초 วินาที sekunden segundos secondes с сек",
    60.0: "m min mins minute minutes 分钟 分鐘 分 분 นาที minuten minutos мин",
    3600.0: "h hr hrs hour hours 小时 小時 時間 시간",
}
TIMES = {name: factor for factor, names in _SECONDS.items() for name in names.split()}
_TIME = re.compile(
    r"(?<![0-9])(?:([0-9]+):)?([0-9]+):([0-9]{2}(?:\.[0-9]+|,[0-9]{3}(?![0-9:]))?)"
    + NO_WORD_AFTER
    + r"|"
    r"(?<![0-9])([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:\s*(?:[-(\[]\s*)?"
    rf"({'|'.join(sorted(TIMES, key=len, reverse=True))})(?![^\W{JOINED}0-9])|{NO_WORD_AFTER})"
)
_NEGATIVE = re.compile(r"(?:^|[\[(,]|\b(?:from|between|to|and)\s)\s*-\s*\.?[0-9]")
_FRAMES = re.compile(r"\bframes?\s*[0-9]|帧")
_NO_SPAN = re.compile(r"\bnot\s+(?:from\s+)?[0-9]|[0-9]\s*s?\s*(?:\bor\b|或)\s*[0-9]")


def parse_interval(text: str) -> tuple[float, float]:
    """Start and end in seconds: "8 to 16 s", "[8, 16]", "0:08 - 0:16", "1 to 2 min", 8秒到16秒."""
    text = text.casefold()
    if _NEGATIVE.search(text):
        raise Unscorable("unreadable", "a time below 0")
    if _FRAMES.search(text):
        raise Unscorable("unreadable", "frames, not seconds")
    if _NO_SPAN.search(text):
        raise Unscorable("unreadable", "a denial or two times to choose from, no span")
    times: list[tuple[float, float | None]] = []
    last_end, last_factor = -1, 0.0
    for match in _TIME.finditer(text):
        hours, minutes, seconds, amount, unit = match.groups()
        if minutes:
            value = 3600 * number(hours or "0") + 60 * number(minutes)
            times.append((value + float(seconds.replace(",", ".")), 1.0))
            last_factor = 0.0
            continue
        factor = TIMES[unit] if unit else None
        if factor is None and _LIKE_A_UNIT.match(text, match.end()):
            raise Unscorable("unreadable", f"no time: {text[match.start() : match.end() + 12]!r}")
        value = number(amount)
        together = last_factor and text[last_end : match.start()].strip() in ("", "and", ",")
        if factor and together and last_factor > factor:  # "1 min 30 s"
            times[-1] = (times[-1][0] * (times[-1][1] or 1.0) + value * factor, 1.0)
        else:
            times.append((value, factor))
        last_end, last_factor = match.end(), factor or 0.0
    if len(times) != 2:
        raise Unscorable(
            "several answers" if len(times) > 2 else "unreadable", f"{len(times)} times"
        )
    last = times[1][1] or 1.0
    start, end = times[0][0] * (times[0][1] or last), times[1][0] * last
    if not start < end:
        raise Unscorable("unreadable", "the span ends before it starts")
    return start, end
