"""Labels of any tool on their way to a source: what a format reads, and what is written from it.

`record` is what the readers in `ufo.data.formats` give, `reading` what they read files and pictures with,
`finding` which picture a name means, `shapes` their geometry; `tidy` leaves out what cannot be used, `split`
divides, `writing` and `sources` write.
"""
