"""Words that the generated tasks are made of: common English, one GPT-2 token after a space.

The lists are a convenience, not a promise: `data.encode` checks each prompt and answer with the
tokenizer at hand and drops what does not fit. Everything that follows "a" starts with a consonant.
"""


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


FEMALE = words(
    """Mary Elizabeth Sarah Jessica Jennifer Amanda Ashley Stephanie Nicole Heather Melissa Megan
    Rachel Laura Lauren Amber Danielle Kimberly Amy Crystal Michelle Tiffany Emily Rebecca Erin
    Samantha Sara Angela Katherine Andrea Erica Lisa Kristen Katie Lindsay Vanessa Courtney
    Christine Alicia Allison Anna Alice Emma Olivia Sophia Julia Claire Jane Susan Karen Nancy Helen
    Maria Diana Victoria Charlotte Grace Lucy Rose Kate Margaret Anne Ruth Martha Barbara Linda
    Carol Donna Sandra Sharon Julie Joan Catherine Caroline Eleanor Hannah Holly Jenny Molly
    Natalie"""
)

MALE = words(
    """John James Robert Michael William David Richard Joseph Thomas Charles Christopher Daniel
    Matthew Anthony Mark Donald Steven Paul Andrew Joshua Kenneth Kevin Brian George Timothy Ronald
    Edward Jason Jeffrey Ryan Jacob Gary Nicholas Eric Jonathan Stephen Larry Justin Scott Brandon
    Benjamin Samuel Gregory Alexander Frank Patrick Raymond Jack Dennis Jerry Tyler Aaron Jose Adam
    Nathan Henry Douglas Peter Kyle Walter Ethan Jeremy Harold Keith Roger Noah Gerald Carl Sean
    Arthur Lawrence Jesse Dylan Bryan Bruce Albert Simon Philip Luke Oliver"""
)

PLACES = words(
    """store garden restaurant school hospital office house station park library museum beach market
    church theater farm hotel bank gym airport bar factory kitchen castle forest village stadium
    club"""
)

OBJECTS = words(
    """ring bone basketball computer necklace drink snack book ball letter map key gift ticket
    camera phone hat flower coin cup watch lamp box bag pen card chair knife bottle guitar cake
    shirt"""
)

EVENTS = words(
    """war siege project conflict campaign reign voyage dispute strike trial drought famine crisis
    plague expedition battle treaty alliance regime rebellion revolution dynasty mission journey
    study tour contract festival program tournament debate investigation occupation boom decline
    depression migration construction celebration search partnership"""
)

CENTURIES = tuple(str(century) for century in range(11, 19))

DIGITS = tuple("0123456789")

TWO_DIGITS = tuple(f"{year:02d}" for year in range(100))

NOUNS = (
    ("author", "authors"),
    ("pilot", "pilots"),
    ("surgeon", "surgeons"),
    ("farmer", "farmers"),
    ("manager", "managers"),
    ("customer", "customers"),
    ("officer", "officers"),
    ("teacher", "teachers"),
    ("senator", "senators"),
    ("guard", "guards"),
    ("chef", "chefs"),
    ("doctor", "doctors"),
    ("driver", "drivers"),
    ("student", "students"),
    ("worker", "workers"),
    ("lawyer", "lawyers"),
    ("artist", "artists"),
    ("writer", "writers"),
    ("soldier", "soldiers"),
    ("player", "players"),
    ("boy", "boys"),
    ("girl", "girls"),
    ("king", "kings"),
    ("nurse", "nurses"),
    ("actor", "actors"),
    ("singer", "singers"),
    ("judge", "judges"),
    ("child", "children"),
    ("man", "men"),
    ("woman", "women"),
    ("dog", "dogs"),
    ("cat", "cats"),
    ("bird", "birds"),
    ("horse", "horses"),
    ("cow", "cows"),
    ("car", "cars"),
    ("truck", "trucks"),
    ("table", "tables"),
    ("picture", "pictures"),
    ("tree", "trees"),
    ("machine", "machines"),
    ("road", "roads"),
    ("river", "rivers"),
    ("bridge", "bridges"),
    ("building", "buildings"),
    ("window", "windows"),
    ("door", "doors"),
    ("ship", "ships"),
    ("boat", "boats"),
    ("train", "trains"),
    ("plane", "planes"),
    ("mountain", "mountains"),
    ("star", "stars"),
    ("wall", "walls"),
    ("tower", "towers"),
    ("clock", "clocks"),
)
"""(singular, plural)."""

VERBS = (
    ("is", "are"),
    ("was", "were"),
    ("has", "have"),
    ("does", "do"),
    ("seems", "seem"),
    ("looks", "look"),
    ("needs", "need"),
    ("makes", "make"),
    ("comes", "come"),
    ("goes", "go"),
    ("takes", "take"),
    ("wants", "want"),
)
"""(with a singular subject, with a plural subject)."""

ADJECTIVES = words("great good nice kind funny smart brave strange quiet careful")

ROLES = words("friend teacher student doctor writer singer player driver boss neighbor")

MOODS = words("happy sad tired angry late hungry busy sick")
