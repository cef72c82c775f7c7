"""A paper as one line on the screen and as BibTeX."""

from __future__ import annotations

from dataclasses import dataclass

BOOKTITLES = {
    "CVPR": "Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
    "ICCV": "Proceedings of the IEEE/CVF International Conference on Computer Vision (ICCV)",
    "ICLR": "International Conference on Learning Representations (ICLR)",
    "ICME": "IEEE International Conference on Multimedia and Expo (ICME)",
}


@dataclass(frozen=True, slots=True)
class Citation:
    """A conference paper, and the program that its numbers come from."""

    key: str
    authors: tuple[str, ...]
    """Family name, given name: as BibTeX wants them."""
    title: str
    conference: str
    """Its short name; BOOKTITLES has the whole ones of some."""
    year: int
    page: str
    """Where the paper is read."""
    program: str
    """Where the program is published that our numbers were compared with."""
    program_by: str = "the authors"

    def __str__(self) -> str:
        families = ", ".join(author.partition(",")[0] for author in self.authors)
        return f"{families}: {self.title}, {self.conference} {self.year}"

    def bibtex(self) -> str:
        """The paper and the program, an entry each."""
        authors = " and ".join(self.authors)
        paper = {
            "author": authors,
            "title": f"{{{self.title}}}",
            "booktitle": BOOKTITLES.get(self.conference, self.conference),
            "year": str(self.year),
            "url": self.page,
        }
        program = {
            "title": f"{{Program of: {self.title}}}",
            "howpublished": f"\\url{{{self.program}}}",
            "note": f"Published by {self.program_by}",
        }
        return f"{_entry('inproceedings', self.key, paper)}\n\n{_entry('misc', f'{self.key}-program', program)}"


def _entry(kind: str, key: str, fields: dict[str, str]) -> str:
    lines = [f"  {name:<12} = {{{text}}}," for name, text in fields.items()]
    return "\n".join((f"@{kind}{{{key},", *lines, "}"))
