"""What names of columns say: words that people use for users, items, times, kinds of events and ratings.

A name is split at `_`, `.`, `-`, blanks, digits and capitals: `customerId`, `CUSTOMER_ID` and `customerid` are equal. Accents
do not count: `artículo` is `articulo`. Words are English, with common words of German, French, Spanish, Italian and Dutch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_GLUED = re.compile(r"(?P<word>[a-z]{3,}?)(?P<end>id|ids|key|nr|no|code|number|nummer|numero)")
"""Two words without a mark between them, such as userid."""


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_IDS = _set("id ids uid key nr code number nummer numero uuid guid hash")
_USER = _set("""
    user users customer client member visitor buyer reader account person shopper subscriber player listener viewer patient
    student learner consumer guest reviewer household profile uid cust kunde kunden klant
    cliente clienti usuario utente utilisateur nutzer benutzer gebruiker leser lecteur
""")
_MAYBE_USER = _set("session device cookie email owner actor author sender")
_ITEM = _set("""
    item items product prod sku article movie film song track book asin isbn ean gtin upc offer listing goods content video venue
    business recipe game course podcast episode show poi restaurant hotel job ad app anime beer joke artwork stock iid pid
    artikel produkt producto articulo articolo prodotto produit material
    buch bucher buecher livre livres libro libros boek
""")
_MAYBE_ITEM = _set("artist location place page url post document doc question paper title")
_DESCRIBES = _set("""
    name names title age gender sex country city zip state region type kind category categories genre genres brand price cost
    amount quantity qty count total description desc text url image order invoice transaction line row event store shop seller
    merchant group segment status language version index length size color colour rank position parent channel referrer
    campaign agent ip
    titel titre titulo titolo preis prix precio prezzo prijs menge quantite cantidad genero filiale bestellung rechnung pedido
    commande
""")
"""Words of columns that say something about a user or an item, or number other things."""
_TIME = _set("""
    time timestamp timestampms ts date datetime when at created day moment epoch unix utc occurred eventtime clock
    zeit datum zeitpunkt zeitstempel uhrzeit heure horodatage fecha hora tijd tijdstip
""")
_OTHER_TIME = _set("""
    birth birthdate dob birthday release released expiry expires expiration updated modified deleted due end published joined
    signup registered registration first last ingested loaded processed
""")
_BEHAVIOUR = _set("""
    event behaviour behavior action type activity interaction verb kind feedback ereignis aktion evenement evento accion azione
""")
_RATING = _set("""
    rating ratings stars star score rate grade overall liked like vote mark
    bewertung bewertungen note sterne etoiles puntuacion valoracion voto beoordeling
""")
_WEIGHT = _set("quantity qty plays playcount listens count views clicks duration seconds minutes dwell watch weight units")
_BACK = _set("""
    remove removed cancel cancelled canceled return returned refund refunded chargeback unlike dislike undo
    storno storniert retoure annule rembourse cancelado devuelto annullato reso
""")
_TARGETS = (
    _set("""
        buy buys bought purchase purchased purchases order ordered checkout transaction sale paid
        gekauft kauf bestellt bestellung achat achete commande compra comprado pedido acquisto acquistato gekocht
    """),
    _set("book booking subscribe rent install download apply enroll"),
    _set("like liked love favorite favourite fav rating review upvote follow"),
    _set("play watch listen complete finish read"),
    _set("cart addtocart add basket wishlist collect save warenkorb merkzettel panier carrito carrello winkelwagen"),
    _set("click clicked open geklickt klick clic"),
    _set("""
        view viewed pageview visit detail browse impression show
        angesehen angeschaut ansicht vu vue visto vista visualizzato bekeken
    """),
)
"""Words of behaviours, from what is mostly wanted to what comes before it."""


def parts(name: str) -> tuple[str, ...]:
    """The words of a name, in small letters; a glued end such as that of userid is a word of its own."""
    found: list[str] = []
    for part in map(str.lower, _PARTS.findall(_without_accents(name))):
        glued = _GLUED.fullmatch(part)
        if glued and glued["word"] in _USER | _ITEM | _MAYBE_USER | _MAYBE_ITEM | _DESCRIBES:
            found += [glued["word"], glued["end"]]
        else:
            found.append(part)
    return tuple(found)


def _without_accents(name: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))


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
