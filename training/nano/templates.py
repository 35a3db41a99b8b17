"""Everyday sentences made from patterns: requests, questions, small talk, with numbers, days and places."""

from __future__ import annotations

import random
import re

_SLOT_TEXT = """
number: one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen,
    fourteen, fifteen, sixteen, seventeen, eighteen, nineteen, twenty, thirty, forty, fifty, sixty,
    seventy, eighty, ninety
hour: one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve
minute: fifteen, thirty, forty five, twenty, ten
day: Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday
month: January, February, March, April, May, June, July, August, September, October, November,
    December
part: morning, afternoon, evening, night
when: today, tomorrow, tonight, this week, next week, next month, right now, soon, later, this
    afternoon, tomorrow morning, on the weekend
city: London, Paris, Berlin, Boston, Chicago, Denver, Madrid, Rome, Dublin, Seattle, Sydney,
    Toronto, Tokyo, Austin
person: my mother, my father, my sister, my brother, the doctor, the teacher, our neighbor, my
    friend, your boss, the children, my wife, my husband, her daughter, his son, the driver, the
    manager, everyone, my uncle, your cousin, the nurse
name: Anna, Peter, Mary, John, Sarah, David, Emma, Tom, Lucy, Mark, Helen, Paul, Julia, Henry,
    Alice, George, Kate, Sam
subject: I, we, they, you
device: the kitchen light, the front door, the garden gate, the old window, the music, the radio,
    the television, the heater, the alarm, the oven, the fan, the camera, the computer, the phone,
    the washing machine, the bedroom lamp
food: coffee, fresh bread, apple juice, green tea, hot soup, chocolate cake, orange juice, milk and
    sugar, rice and fish, chicken salad, cheese, pasta, eggs and toast, ice cream, roast potatoes,
    vegetable pizza
weather: sunny, cloudy, rainy, windy, cold, warm, very hot, quiet, foggy, snowy, dry
place: the train station, the city library, the main hospital, the small hotel, the river bridge,
    the school, the airport, the market, the post office, the museum, the park, the beach, the
    office, the bank, the restaurant, the theater, the supermarket
go: walk, drive, go, run, travel, ride a bike, take a bus, take a taxi
feel: happy, tired, hungry, excited, nervous, sad, angry, proud, sick, bored, worried
thing: a book, a letter, a new car, a blue shirt, a small gift, a birthday card, a ticket, a
    picture, a story, a song, a question, a good idea, an umbrella, the keys, the report
task: finish the work, clean the house, cook dinner, write an email, buy a present, read the news,
    wash the dishes, fix the car, learn English, play the piano, water the plants, pay the bill,
    book a room, call the office, feed the cat, walk the dog, pack the bags, make a list
color: red, blue, green, yellow, black, white, brown, gray, orange, purple, pink
animal: dog, cat, horse, bird, rabbit, mouse, lion, tiger, bear, sheep, cow, duck
"""


def _read_slots() -> dict[str, list[str]]:
    """Slot name to its fillings; a name starts a line, indented lines go on."""
    joined = re.sub(r"\n\s+", " ", _SLOT_TEXT).strip().splitlines()
    return {name: fillings.split(", ") for name, fillings in (line.split(": ", 1) for line in joined)}


_SLOTS = _read_slots()

_PATTERNS = """
The weather in {city} will be {weather} on {day} {part}.
It was {weather} in {city} when {person} came to {place}.
Please remind me to call {person} at {hour} {minute} on {day}.
Turn off {device} in {number} minutes.
Please turn on {device} before {day} {part}.
I would like {number} cups of {food}, please.
Could you {task} {when}?
How do I get to {place} in {city}?
We can {go} from {place} to {place}.
My favorite thing in the {part} is {food}.
Tell {person} that {device} is ready.
Set a timer for {number} minutes and turn on {device}.
Can {person} bring {food} to {place}?
{name} and {name} are going to {place} {when}.
What time does the train to {city} leave {when}?
The train to {city} leaves at {hour} {minute} from platform {number}.
I am {feel} because {person} is coming {when}.
Why are you so {feel} {when}?
{name} has a {color} {animal} and {number} {animal}s.
The {color} {animal} is sitting in front of {place}.
Where did you put {thing}?
{name} gave {person} {thing} for {month}.
I forgot {thing} at {place}, so I have to go back.
Thank you for {thing}, it made me very {feel}.
Do you want to {task} or {task}?
I need to {task} before {hour} o'clock.
Hello {name}, how are you {when}?
My name is {name} and I live in {city}.
Her birthday is on {month} {number}.
It takes about {number} minutes to {go} to {place}.
There are {number} people waiting at {place}.
You should {task} and then {task}.
If it is {weather} {when}, we will {go} to {place}.
That will be {number} dollars and {number} cents.
Sorry, I did not hear what {person} said.
Let me know when you {task}.
Would you like some {food} with your {food}?
I think {person} will be {feel} about {thing}.
The meeting with {person} starts at {hour} {minute}.
Good {part}, {name}, it is nice to see you again.
Don't forget to {task} on {day}.
They could not {go} because it was too {weather}.
Did {name} {task} last {day}?
Yes, I can {task} for you {when}.
No, {person} does not like {food}.
Please open {device} and close {device}.
{number} plus {number} is more than {number}.
We waited for {person} at {place} until {hour} in the {part}.
""".strip().splitlines()


def sentences(count: int, seed: int) -> list[str]:
    """`count` different sentences, the same for the same seed."""
    draw = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        pattern = draw.choice(_PATTERNS)
        text = re.sub(r"\{(\w+)\}", lambda match: draw.choice(_SLOTS[match.group(1)]), pattern)
        found[text[0].upper() + text[1:]] = None
    return list(found)
