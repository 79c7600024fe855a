"""Capitals, as a workload that every stage of a ladder can read: `--datasets tests/real/questions.py`."""

from __future__ import annotations

from dataclasses import dataclass

import asd

CAPITALS = dict(
    pair.split("=")
    for pair in """
France=Paris, Italy=Rome, Peru=Lima, Japan=Tokyo, Spain=Madrid, Germany=Berlin, Egypt=Cairo, Greece=Athens,
Poland=Warsaw, Russia=Moscow, China=Beijing, Portugal=Lisbon, Norway=Oslo, Sweden=Stockholm,
Finland=Helsinki, Denmark=Copenhagen, Austria=Vienna, Hungary=Budapest, Ireland=Dublin, Belgium=Brussels,
Cuba=Havana, Chile=Santiago, Canada=Ottawa, Kenya=Nairobi, Turkey=Ankara, Iraq=Baghdad, Iran=Tehran,
Thailand=Bangkok, Vietnam=Hanoi, Nepal=Kathmandu, Ukraine=Kyiv, Romania=Bucharest, Bulgaria=Sofia,
Croatia=Zagreb, Serbia=Belgrade, Slovenia=Ljubljana, Slovakia=Bratislava, Czechia=Prague, Latvia=Riga,
Lithuania=Vilnius, Estonia=Tallinn, Iceland=Reykjavik, Albania=Tirana, Armenia=Yerevan, Georgia=Tbilisi,
Azerbaijan=Baku, Lebanon=Beirut, Syria=Damascus, Jordan=Amman, Qatar=Doha, Oman=Muscat, Yemen=Sanaa,
Afghanistan=Kabul, Pakistan=Islamabad, India=New Delhi, Bangladesh=Dhaka, Indonesia=Jakarta,
Philippines=Manila, Malaysia=Kuala Lumpur, Mongolia=Ulaanbaatar, Taiwan=Taipei, Laos=Vientiane,
Morocco=Rabat, Algeria=Algiers, Tunisia=Tunis, Libya=Tripoli, Sudan=Khartoum, Ethiopia=Addis Ababa,
Somalia=Mogadishu, Uganda=Kampala, Rwanda=Kigali, Ghana=Accra, Nigeria=Abuja, Senegal=Dakar, Mali=Bamako,
Niger=Niamey, Angola=Luanda, Zambia=Lusaka, Zimbabwe=Harare, Botswana=Gaborone, Namibia=Windhoek,
Mozambique=Maputo, Madagascar=Antananarivo, Mexico=Mexico City, Guatemala=Guatemala City,
Honduras=Tegucigalpa, Nicaragua=Managua, Panama=Panama City, Jamaica=Kingston, Haiti=Port-au-Prince,
Colombia=Bogota, Venezuela=Caracas, Ecuador=Quito, Bolivia=Sucre, Paraguay=Asuncion, Uruguay=Montevideo,
Argentina=Buenos Aires, Brazil=Brasilia, Suriname=Paramaribo, Guyana=Georgetown, Fiji=Suva, Samoa=Apia,
Tonga=Nuku'alofa, Malta=Valletta, Cyprus=Nicosia, Kuwait=Kuwait City, Bahrain=Manama, Bhutan=Thimphu,
Maldives=Male, Cambodia=Phnom Penh, Myanmar=Naypyidaw, Liberia=Monrovia, Togo=Lome, Gabon=Libreville,
Chad=N'Djamena, Eritrea=Asmara, Malawi=Lilongwe, Lesotho=Maseru, Mauritius=Port Louis, Gambia=Banjul
""".replace("\n", " ").strip().split(", ")
)  # fmt: skip
N_TEST = 12
ROOM = 8


@dataclass(frozen=True)
class Capitals:
    """The first dozen are for testing, all others for fitting."""

    name: str = "capitals"

    def queries(self, split: str, limit: int) -> list[asd.Query]:
        towns = list(CAPITALS.items())
        part = towns[N_TEST:] if split == "fit" else towns[:N_TEST]
        return [self._query(*pair) for pair in part[:limit]]

    def _query(self, land: str, town: str) -> asd.Query:
        prompt = f"What is the capital of {land}? Answer with the name of the city only.\nAnswer:"
        return asd.Query(land, self.name, prompt, town, ROOM)

    def score(self, query: asd.Query, text: str) -> float:
        first_line = text.strip().partition("\n")[0]
        return float(str(query.reference) in first_line)


workload = Capitals()
