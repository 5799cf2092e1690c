"""What names of columns say: words that people use for users, items, times, kinds of events and ratings.

A name is split at `_`, `.`, `-`, blanks, digits and capitals: `customerId`, `CUSTOMER_ID` and `customerid` are equal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_GLUED = re.compile(r"(?P<word>[a-z]{3,}?)(?P<end>id|ids|key|nr|no|code|number)")
"""Two words without a mark between them, such as userid."""


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_IDS = _set("id ids uid key nr code number uuid guid hash")
_USER = _set("""
    user users customer client member visitor buyer reader account person shopper subscriber player listener viewer patient
    student learner consumer guest reviewer household profile uid cust kunde kunden cliente usuario utilisateur nutzer
""")
_MAYBE_USER = _set("session device cookie email owner actor author sender")
_ITEM = _set("""
    item items product prod sku article movie film song track book asin isbn ean gtin upc offer listing goods content video venue
    business recipe game course podcast episode show poi restaurant hotel job ad app anime beer joke artwork stock iid pid
    artikel produkt producto articulo produit material
""")
_MAYBE_ITEM = _set("artist location place page url post document doc question paper title")
_DESCRIBES = _set("""
    name names title age gender sex country city zip state region type kind category categories genre genres brand price cost
    amount quantity qty count total description desc text url image order invoice transaction line row event store shop seller
    merchant group segment status language version index length size color colour rank position parent channel referrer
    campaign agent ip
""")
"""Words of columns that say something about a user or an item, or number other things."""
_TIME = _set("""
    time timestamp timestampms ts date datetime when at created day moment epoch unix utc occurred eventtime clock zeit datum
""")
_OTHER_TIME = _set("""
    birth birthdate dob birthday release released expiry expires expiration updated modified deleted due end published joined
    signup registered registration first last ingested loaded processed
""")
_BEHAVIOUR = _set("event behaviour behavior action type activity interaction verb kind feedback")
_RATING = _set("rating ratings stars star score rate grade overall liked like vote mark")
_WEIGHT = _set("quantity qty plays playcount listens count views clicks duration seconds minutes dwell watch weight units")
_BACK = _set("remove removed cancel cancelled canceled return returned refund refunded chargeback unlike dislike undo")
_TARGETS = (
    _set("buy buys bought purchase purchased purchases order ordered checkout transaction sale paid"),
    _set("book booking subscribe rent install download apply enroll"),
    _set("like liked love favorite favourite fav rating review upvote follow"),
    _set("play watch listen complete finish read"),
    _set("cart addtocart add basket wishlist collect save"),
    _set("click clicked open"),
    _set("view viewed pageview visit detail browse impression show"),
)
"""Words of behaviours, from what is mostly wanted to what comes before it."""


def parts(name: str) -> tuple[str, ...]:
    """The words of a name, in small letters; a glued end such as that of userid is a word of its own."""
    found: list[str] = []
    for part in map(str.lower, _PARTS.findall(name)):
        glued = _GLUED.fullmatch(part)
        if glued and glued["word"] in _USER | _ITEM | _MAYBE_USER | _MAYBE_ITEM | _DESCRIBES:
            found += [glued["word"], glued["end"]]
        else:
            found.append(part)
    return tuple(found)


def _points(name: str, words: frozenset[str], maybe: frozenset[str], against: frozenset[str]) -> int:
    """0 where no word fits; more for a sure word, for a word of ids and for a short name, less for words against it."""
    found = parts(name)
    sure, unsure = words.intersection(found), maybe.intersection(found)
    if not sure and not unsure:
        return 0
    points = 6 if sure else 3
    points += 2 * bool(_IDS.intersection(found)) + (len(found) == 1)
    points -= 4 * len(against.intersection(found) - sure - unsure)
    return max(points, 0)


def user_points(name: str) -> int:
    """How clearly a name says that a column holds users; 0: not at all."""
    return _points(name, _USER, _MAYBE_USER, _DESCRIBES)


def item_points(name: str) -> int:
    """The same of items."""
    return _points(name, _ITEM, _MAYBE_ITEM, _DESCRIBES)


def time_points(name: str) -> int:
    """The same of the moment of an interaction."""
    return 0 if says_other_time(name) else _points(name, _TIME, frozenset(), frozenset())


def says_other_time(name: str) -> bool:
    """Whether a name speaks of a moment of something else, such as a birth or a release."""
    return bool(_OTHER_TIME.intersection(parts(name)))


def behaviour_points(name: str) -> int:
    """The same of what a user did."""
    return _points(name, _BEHAVIOUR, frozenset(), _DESCRIBES - _BEHAVIOUR)


def rating_points(name: str) -> int:
    """The same of a rating."""
    return _points(name, _RATING, frozenset(), _DESCRIBES)


def says_something(name: str) -> bool:
    """Whether a name may be that of a column with a role."""
    return any(points(name) for points in (user_points, item_points, time_points, behaviour_points, rating_points))


def says_weight(name: str) -> bool:
    """Whether a name says how much of an interaction there was."""
    return bool(_WEIGHT.intersection(parts(name)))


def describes(name: str) -> bool:
    """Whether a name says that a column describes something, or numbers things other than users and items."""
    return bool(_DESCRIBES.intersection(parts(name)))


def withdraws(value: str) -> bool:
    """Whether a kind of event takes an earlier one back."""
    return bool(_BACK.intersection(parts(value)))


def target_of(values: Mapping[str, object] | tuple[str, ...]) -> str | None:
    """The value that is mostly the one to predict among kinds of events, by its words; None where none is known."""
    for words in _TARGETS:
        for value in values:
            found = set(parts(value)) | {"".join(parts(value))}
            if found.intersection(words) and not withdraws(value):
                return value
    return None
