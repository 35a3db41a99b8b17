"""Names of languages: as clients write them, and as the model's Chinese task prompts do."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cadence.errors import InvalidRequest

__all__ = ["LANGUAGES", "Language", "find_language", "guess_language"]


@dataclass(frozen=True, slots=True)
class Language:
    """ISO 639 code, English name in lower case (as OpenAI's verbose answers have it), Chinese name."""

    code: str
    name: str
    chinese: str


_TABLE = """
af afrikaans 南非荷兰语 | ar arabic 阿拉伯语 | az azerbaijani 阿塞拜疆语 | be belarusian 白俄罗斯语
bg bulgarian 保加利亚语 | bn bengali 孟加拉语 | bs bosnian 波斯尼亚语 | ca catalan 加泰罗尼亚语
cs czech 捷克语 | cy welsh 威尔士语 | da danish 丹麦语 | de german 德语
el greek 希腊语 | en english 英语 | es spanish 西班牙语 | et estonian 爱沙尼亚语
fa persian 波斯语 | fi finnish 芬兰语 | fr french 法语 | gl galician 加利西亚语
gu gujarati 古吉拉特语 | he hebrew 希伯来语 | hi hindi 印地语 | hr croatian 克罗地亚语
hu hungarian 匈牙利语 | hy armenian 亚美尼亚语 | id indonesian 印度尼西亚语 | is icelandic 冰岛语
it italian 意大利语 | ja japanese 日语 | ka georgian 格鲁吉亚语 | kk kazakh 哈萨克语
km khmer 高棉语 | kn kannada 卡纳达语 | ko korean 韩语 | lo lao 老挝语
lt lithuanian 立陶宛语 | lv latvian 拉脱维亚语 | mi maori 毛利语 | mk macedonian 马其顿语
ml malayalam 马拉雅拉姆语 | mn mongolian 蒙古语 | mr marathi 马拉地语 | ms malay 马来语
my burmese 缅甸语 | ne nepali 尼泊尔语 | nl dutch 荷兰语 | no norwegian 挪威语
pa punjabi 旁遮普语 | pl polish 波兰语 | pt portuguese 葡萄牙语 | ro romanian 罗马尼亚语
ru russian 俄语 | si sinhala 僧伽罗语 | sk slovak 斯洛伐克语 | sl slovenian 斯洛文尼亚语
sq albanian 阿尔巴尼亚语 | sr serbian 塞尔维亚语 | sv swedish 瑞典语 | sw swahili 斯瓦希里语
ta tamil 泰米尔语 | te telugu 泰卢固语 | th thai 泰语 | tl tagalog 他加禄语
tr turkish 土耳其语 | uk ukrainian 乌克兰语 | ur urdu 乌尔都语 | uz uzbek 乌兹别克语
vi vietnamese 越南语 | yue cantonese 粤语 | zh chinese 中文
"""
LANGUAGES = {
    entry[0]: Language(*entry)
    for row in _TABLE.split("\n")
    for line in row.split("|")
    if (entry := line.split())
}
_BY_NAME = {language.name: language for language in LANGUAGES.values()} | {
    "mandarin": LANGUAGES["zh"],
    "cmn": LANGUAGES["zh"],
    "fil": LANGUAGES["tl"],
    "iw": LANGUAGES["he"],
    "nb": LANGUAGES["no"],
    "nn": LANGUAGES["no"],
}
# The first script found in a text tells its language, as far as a script can. Kana come before the
# characters that Japanese shares with Chinese; Latin script comes last and means English, the only
# language written so that the model was made for.
_SCRIPTS = (
    ("ja", "[\u3040-\u30ff]"),
    ("ko", "[\u1100-\u11ff\uac00-\ud7af]"),
    ("zh", "[\u3400-\u9fff]"),
    ("ru", "[\u0400-\u04ff]"),
    ("ar", "[\u0600-\u06ff]"),
    ("he", "[\u0590-\u05ff]"),
    ("hi", "[\u0900-\u097f]"),
    ("th", "[\u0e00-\u0e7f]"),
    ("el", "[\u0370-\u03ff]"),
)


def find_language(given: str, param: str) -> Language:
    """The language that a client names by code (`en`, `en-US`) or by English name.

    Raises:
        InvalidRequest: no language by this name is known.
    """
    text = given.strip().lower()
    found = LANGUAGES.get(re.split("[-_]", text)[0]) or _BY_NAME.get(text)
    if found is None:
        raise InvalidRequest(
            f"{given[:40]!r} is no language known here; write an ISO 639-1 code like 'en'.",
            param=param,
            code="invalid_value",
        )
    return found


def guess_language(text: str) -> Language:
    """The language of a text by its script."""
    for code, script in _SCRIPTS:
        if re.search(script, text):
            return LANGUAGES[code]
    return LANGUAGES["en"]
