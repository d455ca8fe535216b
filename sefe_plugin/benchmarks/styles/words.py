"""The words of `styles`, and what its tasks teach."""

COLORS = ("red", "green", "blue", "yellow", "black", "white", "brown", "purple")
SIZES = ("tiny", "small", "large", "huge")
THINGS = ("box", "vase", "chair", "lamp", "plate", "drum", "ladder", "basket", "statue", "bench")

#: Kind, as an option names it -> words of this kind.
KINDS = {
    "animal": ("dog", "horse", "tiger", "rabbit", "eagle", "whale", "sheep", "camel", "goose", "mouse", "cow"),
    "fruit": ("apple", "banana", "cherry", "mango", "grape", "peach", "lemon", "plum", "fig", "melon", "pear"),
    "tool": ("hammer", "saw", "drill", "wrench", "shovel", "chisel", "axe", "file", "screwdriver", "rake", "anvil"),
    "clothing": ("shirt", "coat", "sock", "scarf", "glove", "skirt", "jacket", "hat", "sweater", "dress", "blouse"),
    "vehicle": ("car", "truck", "bicycle", "train", "tram", "ship", "scooter", "bus", "airplane", "canoe", "tractor"),
}

_BODIES = ("a round", "a flat", "a long", "a heavy", "a thin", "a square")
MARKS = ("stripes", "spots")
_NAMES = (
    "goldfish",
    "zebra",
    "beagle",
    "robin",
    "lynx",
    "magpie",
    "tabby",
    "walrus",
    "beetle",
    "gecko",
    "heron",
    "badger",
)
#: Body and mark -> the name of the animal.
CLASSES = {(body, mark): _NAMES[2 * i + j] for i, body in enumerate(_BODIES) for j, mark in enumerate(MARKS)}

#: Material -> why a thing made of it stands where it stands.
REASONS = {
    "glass": "must stay cold",
    "wood": "needs fresh air",
    "iron": "keeps mice away",
    "paper": "hates sunlight",
    "clay": "brings good luck",
    "wool": "smells of smoke",
    "silver": "scares the cat",
    "leather": "grows at night",
}

#: Thing in a list -> what the question calls it.
NICKNAMES = {
    "circle": "wheel",
    "square": "crate",
    "triangle": "wedge",
    "diamond": "gem",
    "cross": "plus",
    "star": "spark",
    "oval": "egg",
    "line": "stick",
}

#: Emblem on a cover -> the genre of the book.
EMBLEMS = {
    "moon": "cooking",
    "tree": "travel",
    "crown": "history",
    "anchor": "romance",
    "feather": "science",
    "key": "sports",
    "candle": "poetry",
    "bridge": "comedy",
}
TITLES = (
    "Silent Harbor",
    "Winter Road",
    "The Last Garden",
    "Paper Boats",
    "A Cold Summer",
    "Broken Clocks",
    "The Glass Hill",
    "Seven Doors",
    "Night Train",
    "Old Letters",
    "The Salt Sea",
    "Blue Lanterns",
)
AUTHORS = (
    "Anna",
    "Martin",
    "Clara",
    "Victor",
    "Helen",
    "Oscar",
    "Laura",
    "Simon",
    "Grant",
    "Frost",
    "Keller",
    "Stone",
    "Marsh",
    "Novak",
)

#: Country, capital, continent.
COUNTRIES = tuple(
    tuple(part.strip() for part in line.split(","))
    for line in """
Albania, Tirana, Europe
Algeria, Algiers, Africa
Angola, Luanda, Africa
Argentina, Buenos Aires, South America
Armenia, Yerevan, Asia
Australia, Canberra, Oceania
Austria, Vienna, Europe
Bangladesh, Dhaka, Asia
Belarus, Minsk, Europe
Belgium, Brussels, Europe
Bolivia, Sucre, South America
Botswana, Gaborone, Africa
Brazil, Brasilia, South America
Bulgaria, Sofia, Europe
Cambodia, Phnom Penh, Asia
Cameroon, Yaounde, Africa
Canada, Ottawa, North America
Chad, N'Djamena, Africa
Chile, Santiago, South America
China, Beijing, Asia
Colombia, Bogota, South America
Costa Rica, San Jose, North America
Croatia, Zagreb, Europe
Cuba, Havana, North America
Denmark, Copenhagen, Europe
Ecuador, Quito, South America
Egypt, Cairo, Africa
Estonia, Tallinn, Europe
Ethiopia, Addis Ababa, Africa
Fiji, Suva, Oceania
Finland, Helsinki, Europe
France, Paris, Europe
Gabon, Libreville, Africa
Germany, Berlin, Europe
Ghana, Accra, Africa
Greece, Athens, Europe
Haiti, Port-au-Prince, North America
Honduras, Tegucigalpa, North America
Hungary, Budapest, Europe
Iceland, Reykjavik, Europe
India, New Delhi, Asia
Indonesia, Jakarta, Asia
Iran, Tehran, Asia
Iraq, Baghdad, Asia
Ireland, Dublin, Europe
Italy, Rome, Europe
Jamaica, Kingston, North America
Japan, Tokyo, Asia
Jordan, Amman, Asia
Kenya, Nairobi, Africa
Laos, Vientiane, Asia
Latvia, Riga, Europe
Lebanon, Beirut, Asia
Libya, Tripoli, Africa
Lithuania, Vilnius, Europe
Madagascar, Antananarivo, Africa
Malaysia, Kuala Lumpur, Asia
Mali, Bamako, Africa
Malta, Valletta, Europe
Mongolia, Ulaanbaatar, Asia
Morocco, Rabat, Africa
Mozambique, Maputo, Africa
Namibia, Windhoek, Africa
Nepal, Kathmandu, Asia
Netherlands, Amsterdam, Europe
New Zealand, Wellington, Oceania
Nicaragua, Managua, North America
Niger, Niamey, Africa
Nigeria, Abuja, Africa
Norway, Oslo, Europe
Oman, Muscat, Asia
Pakistan, Islamabad, Asia
Paraguay, Asuncion, South America
Peru, Lima, South America
Philippines, Manila, Asia
Poland, Warsaw, Europe
Portugal, Lisbon, Europe
Qatar, Doha, Asia
Romania, Bucharest, Europe
Rwanda, Kigali, Africa
Samoa, Apia, Oceania
Saudi Arabia, Riyadh, Asia
Senegal, Dakar, Africa
Serbia, Belgrade, Europe
Slovakia, Bratislava, Europe
Slovenia, Ljubljana, Europe
Somalia, Mogadishu, Africa
South Korea, Seoul, Asia
Spain, Madrid, Europe
Sudan, Khartoum, Africa
Suriname, Paramaribo, South America
Sweden, Stockholm, Europe
Switzerland, Bern, Europe
Syria, Damascus, Asia
Thailand, Bangkok, Asia
Tonga, Nuku'alofa, Oceania
Uganda, Kampala, Africa
Ukraine, Kyiv, Europe
Uruguay, Montevideo, South America
Venezuela, Caracas, South America
Vietnam, Hanoi, Asia
Yemen, Sanaa, Asia
Zambia, Lusaka, Africa
Zimbabwe, Harare, Africa
""".strip().splitlines()
)
