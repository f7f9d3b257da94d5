"""The bug zoo: bugs to plant into the running library, and to hunt. Exercises for learners.

    from microtensor.testing import zoo

    zoo.visit()                 lists the exercises
    bug = zoo.plant(1)          puts one into the library
    bug.hunt()                  asks the check what is wrong
    bug.release()               the library is as before

From a shell: `python -m microtensor.testing.zoo 1 --hunt`. Nothing is written to disk, and no other
process is touched.
"""

from microtensor.testing.zoo.exercise import Exercise, exercises, plant, release, visit

__all__ = ["Exercise", "exercises", "plant", "release", "visit"]
