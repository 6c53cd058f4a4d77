"""Regular expressions that the readers of scores, labels and announcements share.

Every repeat is bounded, so that matching takes time linear in the text.
"""

import re

SPACE = r"[^\S\n]{0,8}"
MARKS = r"*_`\"'“”‘’"  # of bold, code and quotations
OPENING = rf"(?:\\boxed\{{|\\[(\[]|[\s{MARKS}<(\[{{「『【《:=$]){{0,24}}"
CLOSING = rf"[{MARKS}>)\]}}」』】》$]{{0,12}}"
# What may follow a verdict that ends its text.
TRAILING = re.compile(r"[\s.。!]{0,64}\Z")
