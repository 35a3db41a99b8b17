"""Everyday sentences for evaluation. No stage trains on them: the corpus drops any line equal to one."""

EVERYDAY = """
I left my glasses on the table next to the bed.
Could you help me carry these boxes upstairs?
The bus was late again, so I missed the start of the show.
We usually eat lunch together around noon.
She smiled and waved at us from across the street.
There is nothing better than a warm shower after a long day.
My phone is almost out of power, can I borrow your charger?
He has been learning to play the guitar for two years.
Please speak a little more slowly, I am still learning.
The shop on the corner sells the best apples in town.
I can't believe how quickly the children have grown.
What do you usually do on a rainy Sunday afternoon?
The doctor told him to drink more water and get some sleep.
We painted the living room a light shade of yellow.
Our flight was delayed because of heavy snow.
Nobody knows who broke the window last night.
It is too early to say what will happen next.
They moved into a bigger apartment near the river.
If you need anything, just give me a call.
The movie was funny, but the ending made me cry.
I would rather stay home and read a good book.
Make sure you lock the door before you leave.
The little boy asked his grandmother for another cookie.
How much does it cost to send this package abroad?
She works at a hospital and often has to work at night.
The water in the lake was cold and perfectly clear.
You have to turn left at the second traffic light.
I am looking forward to seeing you again next summer.
He forgot his umbrella and came home completely wet.
The coffee here is strong, but I like it that way.
We had to wait for almost an hour at the bank.
My brother is afraid of spiders and big dogs.
Can you tell me where I can find the nearest pharmacy?
The old man sat quietly on the bench and fed the birds.
I need a new pair of shoes for the wedding.
Let's meet in front of the cinema at half past seven.
The computer is slow today, maybe you should restart it.
Thank you very much for your kind words.
They are planning a surprise party for their parents.
It was a pleasure to talk with you this morning.
""".strip().splitlines()
