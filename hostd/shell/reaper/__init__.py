"""The parent of the supervisor: it collects whatever a supervisor that was killed leaves behind.

Run with `-S`, so that it is up in milliseconds and stays small: little but the standard library's core. The supervisor
is its fork, which goes on where `starting.run` returns: an interpreter of its own would start for 20 ms more.

Why it exists: a worker dies with its supervisor (PR_SET_PDEATHSIG), but a process that a model started does not. The
reaper is a subreaper, so such orphans become its children when the supervisor dies, and it kills them, with the control
group that the supervisor has named (`collecting`). It also watches the process that embeds the host, by pidfd, because
PR_SET_PDEATHSIG would fire when the embedding *thread* ends. And it puts right what it and the supervisor inherit: the
starter may have blocked or ignored any signal, and closed its standard descriptors. What says how to treat the host
stays: a hang-up or an interrupt that is ignored (nohup(1), the shell's `&`), umask, niceness, limits.

It is imported as a package of its own, `reaper`, without what `hostd` needs; its modules import each other relatively.
"""
