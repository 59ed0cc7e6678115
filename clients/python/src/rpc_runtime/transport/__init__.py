"""Connections and channels.

This uses aiormq, the layer below aio-pika. A call has to know whether its own request was written,
returned, refused or confirmed, and decides itself what happens after a lost connection. aio-pika's
robust connections hide both: they connect again by themselves, and declare and consume again what
they remember.
"""
