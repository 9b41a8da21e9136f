"""What a recipe will need, told before anything runs: sizes, memory, rows, tokens, steps and time.

It stands on top of all rooms, beside the command line: it reads the settings of every stage and makes the
rows of a few users and items with the stages' own code. No stage knows it.

    shapes    models from their configurations, on a device that holds no weights
    memory    bytes on one device, under each way of sharing a training out
    volumes   rows and tokens of every task, from what can be read
    stages    what each file of a recipe asks for
    probe     how fast the present machine is
    fitting   what does not fit, and the setting that makes it fit
    plan      the command
"""
