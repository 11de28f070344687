"""The bundle that an endpoint answers with now, and its replacement by another one."""

import asyncio
import logging
from collections.abc import Callable

from audiocnn.model.bundle import Bundle
from serve.engine.decoder import Decoder
from serve.engine.model import InferenceModel
from serve.engine.service import Service
from serve.problems import Problem

_LOG = logging.getLogger("ray.serve")
Opened = tuple[Bundle, InferenceModel]


class Current:
    """The bundle that answers now. Another bundle replaces it after its warm-up requests."""

    def __init__(
        self,
        open_bundle: Callable[[str, str | None], Opened],
        decoder: Decoder,
        longest_s: float,
    ) -> None:
        self._open, self._decoder, self._longest_s = open_bundle, decoder, longest_s
        self._service: Service | None = None

    def service(self) -> Service:
        """Return the service that answers. Raises Problem before a bundle is loaded."""
        if self._service is None:
            raise Problem("not-ready", "no bundle is loaded yet")
        return self._service

    async def roll(self, uri: str, fingerprint: str | None) -> None:
        """Load the bundle at a URI and let it answer. If it does not load, the old one stays.

        Raises the error, for example AudioCNNError, if there is no old one.
        """
        old = self._service
        if old is not None and old.bundle.fingerprint == fingerprint:
            return
        try:
            bundle, model = await asyncio.to_thread(self._open, uri, fingerprint)
            new = Service(bundle, model, self._decoder)
            await new.warm_up()
        except Exception as error:
            if old is None:
                raise
            _LOG.error(f"{uri} does not load, so {old.bundle.fingerprint} stays: {error}")
            return
        self._service = new
        if old is not None:
            # Requests that began with the old model may use it until they time out.
            asyncio.get_running_loop().call_later(2 * self._longest_s, old.model.close)
