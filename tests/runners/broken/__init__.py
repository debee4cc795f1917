"""Mechanisms with one flaw each, which `attnbench verify` must find and name.

All but the flaw is right: it is linear attention, whose parallel and step forms are tested. A few
have no flaw, and must not be refuted.
"""
