from setuptools import find_namespace_packages, setup

# The rooms stand at the top of the repository and are imported as attnbias.<room>; the rest is in pyproject.toml.
package_dir = {"attnbias": "src/attnbias"} | {
    f"attnbias.{room}": room for room in ("cli", "data", "methods", "weights")
}
inner = {
    f"attnbias.{r}.{p}"
    for r in ("cli", "data", "methods", "weights")
    for p in find_namespace_packages(r, exclude=["*__pycache__*"])
}
setup(packages=[*package_dir, *sorted(inner)], package_dir=package_dir)
