"""The kernel: from files on disk to an immutable snapshot of what is deployed.

    watch ── tick ──> scan ── revisions ──> plan ── plan ──> load ── deployment | failure ──> snapshot

``reconcile`` runs that line from left to right, once per tick, in a thread of its own, and gives every new
snapshot to ``publish``; what a snapshot no longer holds goes to ``retire`` after its last request. Read it in that
order: ``reconcile.py`` first, then the steps. Nothing here knows HTTP.
"""
