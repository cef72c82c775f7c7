"""The page of `attnbias explore`, over HTTP and in a browser: its figures are those of `predict` and `attention`, what
is painted over is what the models get, and nothing but the page itself is answered."""

from __future__ import annotations

import io
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import attnbias
from attnbias.methods.engine.errors import UsageError
from attnbias.methods.engine.explore import explore as engine
from attnbias.methods.engine.explore.images import HELD, HeldImages
from tests.helpers.accessibility import needs_axe, serious_findings
from tests.helpers.browser import Browser
from tests.helpers.explored import answered, content, file_of, levels, mask_of, refusal, send
from tests.helpers.small_model import write_model

SIZE = (90, 60)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[attnbias.Model]:
    folder = tmp_path_factory.mktemp("models")
    names = {"one": {"seed": 0}, "two": {"seed": 1}, "steered": {"method": "absvit"}}
    files = [write_model(folder / f"{name}.safetensors", **how) for name, how in names.items()]  # type: ignore[arg-type]
    return [attnbias.load(file, device="cpu") for file in files]


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), np.uint8))


@pytest.fixture(scope="module")
def page(models: list[attnbias.Model], photo: Image.Image) -> Iterator[str]:
    with attnbias.explore(models, [photo]) as served:
        yield served.url


def look(page: str, image: dict[str, Any], **asked: Any) -> dict[str, Any]:
    found: dict[str, Any] = send(page, "/look", {"model": 0, "map": "score", "image": image["key"], **asked})
    return found


def drawn(maps: attnbias.AttentionMaps) -> bytes:
    return np.rint(255 * maps.normalised[0]).astype(np.uint8).tobytes()


def rounded(scores: Any) -> list[float]:
    return [round(float(score), 6) for score in scores]


# Figures --------------------------------------------------------------------------------------------------------------


def test_scores_and_maps_of_an_uploaded_file_are_those_of_predict_and_attention(
    page: str, models: list[attnbias.Model], photo: Image.Image, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = tmp_path / "sideways.jpg"
    sideways.write_bytes(file_of(photo, "JPEG", exif=exif.tobytes()))
    opened = send(page, "/open", sideways.read_bytes())
    assert opened["size"] == list(SIZE[::-1])
    for number, model in enumerate(models[:2]):
        kinds = list(content(page)["models"][number]["maps"])
        assert kinds == list(model.maps)
        best = model.predict(sideways).scores.argmax()
        for kind in (kinds[0], "gradcam"):
            found = look(page, opened, model=number, map=kind)
            assert found["scores"] == rounded(model.predict(sideways).scores)
            assert found["label"] == best
            assert levels(found) == drawn(model.attention(sideways, int(best), map=kind))
            other = look(page, opened, model=number, map=kind, label=3)
            assert levels(other) == drawn(model.attention(sideways, 3, map=kind))


def test_a_prior_is_as_strong_as_asked(page: str, models: list[attnbias.Model], photo: Image.Image) -> None:
    begun = send(page, "/begin", {"number": 0})
    told = content(page)["models"][2]["maps"]
    assert (told["steered"]["steered"], told["prompt"]["steered"]) == (True, False)
    maps = {}
    for gain in (None, 0.0, 1e4):  # of random weights, which hardly notice a smaller one
        found = look(page, begun, model=2, map="steered", label=4, gain=gain)
        maps[gain] = levels(found)
        assert maps[gain] == drawn(models[2].attention(photo, prior=4, gain=gain))
        assert f"gain {gain:g}" in found["words"] if gain is not None else "gain" not in found["words"]
    assert maps[0.0] != maps[1e4]


@pytest.mark.parametrize("fill", ["mean", "black", "white", "blurred"])
def test_what_is_painted_over_is_what_the_models_get(
    fill: str, page: str, models: list[attnbias.Model], photo: Image.Image, tmp_path: Path
) -> None:
    begun = send(page, "/begin", {"number": 0})
    mask = mask_of((begun["width"], begun["height"]), (10, 20, 55, 40))
    painted = send(page, "/paint", {"image": begun["key"], "mask": mask, "fill": fill})
    saved = tmp_path / "painted.png"
    saved.write_bytes(send(page, "/png", {"image": painted["key"]}))
    assert look(page, painted)["scores"] == rounded(models[0].predict(saved).scores)
    assert look(page, painted)["scores"] != look(page, begun)["scores"]

    before, after = np.asarray(photo).astype(int), np.asarray(Image.open(saved)).astype(int)
    inside = np.zeros(before.shape[:2], bool)
    inside[20:40, 10:55] = True
    assert painted["covered"] == pytest.approx(inside.mean())
    assert (after[~inside] == before[~inside]).all()
    if fill == "blurred":
        assert 0 < after[inside].std() < before[inside].std() / 2
    else:
        colours = {"mean": np.rint(before.mean((0, 1))), "black": [0, 0, 0], "white": [255, 255, 255]}
        assert (after[inside] == colours[fill]).all()


def test_a_large_image_is_painted_in_its_own_pixels(page: str) -> None:
    opened = send(page, "/open", file_of(Image.new("RGB", (2048, 64), "teal")))
    assert (opened["width"], opened["height"]) == (1024, 32)
    mask = mask_of((1024, 32), (0, 0, 512, 1))
    painted = send(page, "/paint", {"image": opened["key"], "mask": mask, "fill": "white"})
    saved = np.asarray(Image.open(io.BytesIO(send(page, "/png", {"image": painted["key"]}))))
    white = np.zeros((64, 2048), bool)
    white[:2, :1024] = True
    assert ((saved == 255).all(2) == white).all()


def test_the_page_says_what_its_models_are(page: str, models: list[attnbias.Model]) -> None:
    told = content(page)["models"]
    assert [model["name"] for model in told] == ["one", "two", "steered"]
    assert len({model["sha256"] for model in told}) == 3
    for model, loaded in zip(told, models, strict=True):
        assert (model["weights"], model["classes"]) == (loaded.loaded.source, list(loaded.classes))
        assert "normalize" in model["images"]
    assert "at backbone" in told[0]["maps"]["gradcam"]["words"]


def test_a_network_is_asked_by_one_request_at_a_time(models: list[attnbias.Model], photo: Image.Image) -> None:
    inside, most = [0], [0]

    def enter(*_: object) -> None:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)

    def leave(*_: object) -> None:
        inside[0] -= 1

    hooks = (models[0].module.register_forward_pre_hook(enter), models[0].module.register_forward_hook(leave))
    with attnbias.explore([models[0], models[0]], [photo]) as served:
        begun = send(served.url, "/begin", {"number": 0})
        threads = [
            threading.Thread(target=look, args=(served.url, begun), kwargs={"model": number % 2}) for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for hook in hooks:
        hook.remove()
    assert most == [1]


# What is refused ------------------------------------------------------------------------------------------------------


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "this file is not an image"),
        (b"<svg onload=alert(1)>", "this file is not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "this file is not an image"),
        (b"/etc/passwd", "this file is not an image"),
        (png_that_claims(60_000, 60_000), "this file cannot be read"),
        (file_of(Image.new("RGB", (300, 300), "red"), "JPEG")[:400], "this file cannot be read"),
    ],
)
def test_what_is_not_an_image_is_one_line(page: str, body: bytes, words: str) -> None:
    status, line = refusal(page, "/open", body)
    assert (status, line[: len(words)]) == (400, words)


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/look", b"{", "no valid JSON"),
        ("/look", b"\xff", "this is not what the page sends"),
        ("/look", b"[" * 100_000, "nested too deep"),
        ("/look", b'{"model": 0, "map": "score", "image": "KEY", "gain": NaN}', "'gain' is nan"),
        ("/look", {"model": "0", "map": "score", "image": "KEY"}, "'model' is '0'"),
        ("/look", {"model": 9, "map": "score", "image": "KEY"}, "the page has 3 models"),
        ("/look", {"model": 0, "map": "score", "image": "KEY", "label": 10}, "knows 10 classes"),
        ("/look", {"model": 0, "map": "scor", "image": "KEY"}, "has no map 'scor' (did you mean 'score'?)"),
        ("/look", {"model": 0, "map": "score", "image": "../../etc/passwd"}, "not held any more; open it again"),
        ("/look", {"model": 0, "map": "score", "image": "KEY", "path": "/etc/passwd"}, "'path' is"),
        ("/begin", {"number": 1}, "began with 1 images"),
        ("/begin", {"number": -1}, "'number' is -1"),
        ("/png", {"image": "x"}, "not held any more"),
        ("/paint", {"image": "KEY", "mask": "***", "fill": "black"}, "not base64"),
        ("/paint", {"image": "KEY", "mask": "AAAA", "fill": "black"}, "the painted mask is not an image"),
        ("/paint", {"image": "KEY", "mask": mask_of((7, 7), (0, 0, 1, 1)), "fill": "black"}, "is of (7, 7) pixels"),
        ("/paint", {"image": "KEY", "mask": "AAAA", "fill": "pink"}, "'fill' is 'pink'"),
    ],
)
def test_what_the_page_would_not_send_is_one_line(page: str, path: str, body: Any, words: str) -> None:
    key = send(page, "/begin", {"number": 0})["key"]
    if isinstance(body, bytes):
        status, line = refusal(page, path, body.replace(b"KEY", key.encode()), Content_Type="application/json")
    else:
        status, line = refusal(page, path, {name: key if value == "KEY" else value for name, value in body.items()})
    assert status == 400
    assert words in line
    assert send(page, "/begin", {"number": 0})["size"] == list(SIZE)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (403, {"Host": "evil.example"}),
        (403, {"Host": "evil.example:80"}),
        (403, {"Host": "192.0.2.1"}),
        (403, {"Host": ""}),
        (403, {"Host": "[::1"}),
        (403, {"Origin": "http://evil.example"}),
        (403, {"Origin": "null"}),
        (415, {"Content_Type": "text/plain"}),
        (415, {"Content_Type": "multipart/form-data; boundary=x"}),
        (413, {"Content_Length": "99999999999999999999"}),
        (413, {"Content_Length": str((16 << 20) + 1)}),
        (411, {"Content_Length": "-1"}),
        (411, {"Content_Length": "1_0"}),
    ],
)
def test_requests_of_other_sites_and_of_no_sensible_length_are_refused(
    page: str, status: int, headers: dict[str, str]
) -> None:
    assert refusal(page, "/begin", {"number": 0}, **headers)[0] == status
    if "Host" in headers:
        assert answered(page, "GET", "/", **headers)[0].status == status


def test_only_the_page_is_there_and_it_trusts_nobody(page: str) -> None:
    for path in ("/etc/passwd", "/../../etc/passwd", "/index.html", "/?x", "/look"):
        assert answered(page, "GET", path)[0].status == 404
    assert refusal(page, "/x", {})[0] == 404
    assert answered(page, "PUT", "/", b"")[0].status == 501
    for name in ("localhost:1", "127.0.0.1", "[::1]:80"):  # as behind a tunnel, which has a port of its own
        assert answered(page, "GET", "/", Host=name)[0].status == 200
    headers = answered(page, "GET", "/")[0].headers
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"].strip() == "attnbias"


def test_a_server_for_others_says_so_and_takes_the_addresses_that_they_know(
    models: list[attnbias.Model], photo: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    with attnbias.explore(models[0], [photo], host="0.0.0.0") as served:
        assert "warning: " in capsys.readouterr().err
        assert answered(served.url, "GET", "/", Host="192.0.2.1:80")[0].status == 200
        assert answered(served.url, "GET", "/", Host="evil.example")[0].status == 403
        port = int(served.url.rsplit(":", 1)[1].rstrip("/"))
        with pytest.raises(UsageError, match=rf"--port {port}: nothing can be served there \(Address already in use\)"):
            attnbias.explore(models[0], port=port, host="0.0.0.0")
    assert "warning" not in capsys.readouterr().err
    served.close()  # again, as after a block that closed it
    with pytest.raises(ConnectionRefusedError):
        answered(served.url, "GET", "/")
    with pytest.raises(UsageError, match="nothing can be served there"):
        attnbias.explore(models[0], host=64 * "x")


def test_the_oldest_images_are_let_go() -> None:
    held, image = HeldImages(), Image.new("RGB", (4, 4))
    first, second = held.add(image), held.add(image)
    for _ in range(HELD - 1):
        assert held[first.key] is first
        held.add(image)
    with pytest.raises(UsageError, match="open it again"):
        held[second.key]
    assert held[first.key] is first


def test_names_cannot_become_markup(tmp_path: Path) -> None:
    hostile = ("</script><script>alert(1)</script>", "dog\u202egpj", *(f"class {n}" for n in range(8)))
    weights = write_model(tmp_path / "x.safetensors", classes=hostile)
    Image.new("RGB", (20, 20)).save(tmp_path / "<b>x.png")
    with attnbias.explore(attnbias.load(weights, device="cpu"), tmp_path / "<b>x.png") as served:
        _, found = answered(served.url, "GET", "/")
        assert found.count(b"</script>") == 2
        assert "\u202e" not in found.decode()
        assert content(served.url)["models"][0]["classes"][0] == hostile[0]


def test_no_more_images_than_the_page_shows_are_begun_with_and_it_is_said(
    models: list[attnbias.Model],
    photo: Image.Image,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(engine, "BEGIN_WITH", 2)
    with attnbias.explore(models[0], [photo] * 3) as served:
        assert len(content(served.url)["images"]) == 2
    assert "the first 2 of 3 images" in capsys.readouterr().err


# In a browser ---------------------------------------------------------------------------------------------------------

ASKED = "return [...document.querySelectorAll('.model')].map(n => n.getAttribute('aria-busy'))"


def answers(browser: Browser, wanted: str) -> Any:
    """What a script gives once the models have answered and it gives something."""
    for _ in range(300):
        found = browser.run(wanted)
        if set(browser.run(ASKED)) == {"false"} and found:
            return found
        time.sleep(0.05)
    raise AssertionError(browser.run("return document.body.innerText"))


def rows(browser: Browser, model: int) -> list[list[str]]:
    script = f"return [...document.querySelectorAll('.model')[{model}].querySelectorAll('tbody tr')]"
    found: list[list[str]] = browser.run(f"{script}.map(r => [...r.children].map(c => c.innerText))")
    return found


def paint(browser: Browser, *places: tuple[float, float]) -> None:
    """Draw a stroke along places, as shares of the image."""
    left, top, width, height = browser.run(
        "const b = document.getElementById('mask').getBoundingClientRect(); return [b.left, b.top, b.width, b.height]"
    )
    moves: list[dict[str, Any]] = [
        {"type": "pointerMove", "x": round(left + x * width), "y": round(top + y * height)} for x, y in places
    ]
    moves[1:1] = [{"type": "pointerDown", "button": 0}]
    pointer = {"type": "pointer", "id": "mouse", "actions": [*moves, {"type": "pointerUp", "button": 0}]}
    browser.call("POST", "/actions", {"actions": [pointer]})


@needs_axe
def test_axe_finds_nothing_serious(browser: Browser, page: str) -> None:
    browser.visit(page)
    answers(browser, "return document.querySelector('.model tbody')")
    paint(browser, (0.2, 0.3), (0.6, 0.5))
    answers(browser, "return document.querySelectorAll('.looks figure').length === 6")
    assert serious_findings(browser) == []


def test_painting_in_a_browser_changes_scores_and_maps_to_those_of_the_painted_image(
    browser: Browser, page: str, models: list[attnbias.Model], tmp_path: Path
) -> None:
    browser.visit(page)
    answers(browser, "return document.querySelector('.model tbody')")
    assert browser.run("return document.querySelectorAll('.looks figure').length") == 3
    assert all(len(row) == 3 for row in rows(browser, 0))
    paint(browser, (0.2, 0.3), (0.6, 0.5), (0.6, 0.8))
    answers(browser, "return document.querySelectorAll('.looks figure').length === 6")
    painted = browser.run("return state.painted")
    assert 0.05 < painted["covered"] < 0.5
    saved = tmp_path / "painted.png"
    saved.write_bytes(send(page, "/png", {"image": painted["key"]}))
    for number, model in enumerate(models[:2]):
        after = model.predict(saved).scores
        for name, _, before, score, change in rows(browser, number):
            assert float(score) == pytest.approx(after[model.classes.index(name)], abs=6e-4)
            assert float(change.replace("\u2212", "-")) == pytest.approx(float(score) - float(before), abs=1.1e-3)

    covered = painted["covered"]
    browser.click("#swap")
    answers(browser, f"return Math.abs(state.painted?.covered - {1 - covered}) < 1e-6")
    browser.click("#undo")
    answers(browser, f"return Math.abs(state.painted?.covered - {covered}) < 1e-6")
    browser.click("#clear")
    answers(browser, "return state.painted === null && document.querySelectorAll('.looks figure').length === 3")
    browser.run("document.querySelector('.model button').click()")  # covers the focus of the first model's map
    answers(browser, "return document.querySelectorAll('.looks figure').length === 6")
    focus = browser.run(
        "const {before} = cards[0]; return resized(before.map, 90, 60).filter(v => v >= page.focus).length / 5400"
    )
    assert browser.run("return state.painted.covered") == pytest.approx(focus, abs=1e-6)
    assert browser.complaints() == []


def test_what_is_wrong_is_said_on_the_page_and_nothing_leaves_the_machine(
    browser: Browser, page: str, photo: Image.Image, tmp_path: Path
) -> None:
    browser.visit(page)
    answers(browser, "return document.querySelector('.model tbody')")
    (tmp_path / "<b>broken.jpg").write_bytes(b"no image")
    browser.type("#file", str(tmp_path / "<b>broken.jpg"))
    said = answers(browser, "return document.getElementById('trouble').textContent")
    assert said.startswith("<b>broken.jpg: this file is not an image")
    photo.save(tmp_path / "mine.png")
    browser.type("#file", str(tmp_path / "mine.png"))
    answers(browser, "return document.getElementById('name').textContent.startsWith('mine.png: 90 x 60 pixels')")
    assert browser.run("return document.getElementById('trouble').hidden")
    set_class = "const box = document.getElementById('class'); box.value = '{}'; box.dispatchEvent(new Event('change'))"
    browser.run(set_class.format("digit_3"))
    answers(
        browser, "return [...document.querySelectorAll('tr.mapped th')].every(t => t.innerText.startsWith('digit_3'))"
    )
    browser.run(set_class.format("zebra"))
    assert "no class 'zebra'" in answers(browser, "return document.querySelector('.model .trouble').textContent")
    assert browser.run("return document.querySelectorAll('.looks figure, table:not([hidden])').length") == 0
    hosts = browser.run("return performance.getEntriesByType('resource').map(e => new URL(e.name).host)")
    assert {*hosts} == {page.split("/")[2]}
    assert all("400" in line for line in browser.complaints())


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_fits_its_window(browser: Browser, page: str, width: int) -> None:
    browser.call("POST", "/window/rect", {"width": max(width, 500), "height": 900})
    browser.visit(page)
    answers(browser, "return document.querySelector('.model tbody')")
    assert browser.run("return document.documentElement.scrollWidth <= innerWidth")
    named = "return [...document.querySelectorAll('button, input, select')].every(n => n.innerText || n.labels?.length"
    assert browser.run(f"{named} || n.title)")
    browser.call("POST", "/window/rect", {"width": 1400, "height": 1000})
