"""A training that waits."""

from __future__ import annotations

import time

from engine.training.control import Act, Decision
from engine.training.milestones import write_sample
from engine.training.saving import save
from engine.training.session import Session

POLL_SECONDS = 0.2


def pause(session: Session, decision: Decision) -> bool:
    """Save, then wait for what is asked next; whether training goes on (else it was stopped).

    The wait counts neither as elapsed nor as trained time.
    """
    session.tell_state("pausing", decision.reason)
    saved = save(session)
    session.tell_state("paused", decision.reason)
    session.control.done(decision, saved=saved)
    with session.clock.paused():
        while True:
            decision = session.control.decide(session.elapsed_seconds, paused=True)
            match decision.act:
                case Act.STOP:
                    session.tell_state("stopping", decision.reason)
                    session.control.done(decision, saved=save(session))
                    return False
                case Act.RESUME:
                    session.tell_state("running", decision.reason)
                    session.control.done(decision)
                    return True
                case Act.CHECKPOINT:
                    message = "it was saved already" if session.saved_step == session.step else ""
                    session.control.done(decision, message, saved=save(session))
                    write_sample(session)
                case _:
                    time.sleep(POLL_SECONDS)
