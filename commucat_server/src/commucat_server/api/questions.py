"""Questions to other servers that a request of a user makes, and how they fail."""

from commucat_server.api.problems import ProblemError
from commucat_server.federation.queries import PeerQuestionError


def question_problem(error: PeerQuestionError) -> ProblemError:
    """What the user is told when another server has no answer."""
    if not error.known:
        return ProblemError(404, "no server is known for this domain")
    if not error.found:
        return ProblemError(404, "device not found")
    return ProblemError(503, str(error))
