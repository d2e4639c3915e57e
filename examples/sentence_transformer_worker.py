"""An embedding worker around a sentence-transformers model: texts that mean the same lie close together."""

import argparse
import asyncio
import json
from collections.abc import Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
BODY_BYTES_MAX = 64 << 20


def build_app(encode: Callable[[str], list[float]], model: str) -> Starlette:
    """Return the worker: `encode` turns a text into a vector, `model` is the name stored with it."""
    one_at_a_time = asyncio.Lock()

    async def predict(request: Request) -> Response:
        if request.headers.get("X-Embedding-Kind") != "text":
            return answer(422, {"error": "this worker embeds only text"})
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                return answer(413, {"error": f"a text may have at most {BODY_BYTES_MAX} bytes"})
        text = body.decode(errors="replace")
        async with one_at_a_time:  # a model uses all processors for one text already
            vector = await asyncio.to_thread(encode, text)
        return answer(200, {"embedding": vector, "model": model, "dimension": len(vector)})

    async def health(_: Request) -> Response:
        return answer(200, {"status": "ok", "models": {"text": {"model": model}}})

    return Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/healthz", health)])


def answer(status: int, content: object) -> Response:
    """Return `content` as JSON."""
    return Response(json.dumps(content), status, media_type="application/json")


def main() -> None:
    """Load the model and serve it until interrupted."""
    import uvicorn
    from sentence_transformers import SentenceTransformer

    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=3003)
    options = parser.parse_args()
    model = SentenceTransformer(options.model)
    app = build_app(lambda text: model.encode(text, normalize_embeddings=True).tolist(), options.model)
    uvicorn.run(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
