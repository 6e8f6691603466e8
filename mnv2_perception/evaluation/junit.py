"""Write the results of comparisons as JUnit XML, which CI systems show."""

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from mnv2_perception.evaluation.compare import Check


def write_junit(path: Path, checks: Sequence[Check], suite: str = 'mnv2 bag compare') -> None:
    """Write a report in Jenkins' format, https://github.com/jenkinsci/xunit-plugin.

    Args:
        path: path of the file; an existing one is replaced.
        checks: the results.
        suite: name of the test suite.
    """
    failures = sum(not check.passed for check in checks)
    root = ElementTree.Element('testsuites')
    element = ElementTree.SubElement(
        root, 'testsuite', name=suite, tests=str(len(checks)), failures=str(failures),
        errors='0', skipped='0',
    )
    for check in checks:
        case = ElementTree.SubElement(
            element, 'testcase', classname=suite, name=printable(check.name)
        )
        if not check.passed:
            failure = ElementTree.SubElement(case, 'failure', message=printable(check.told))
            failure.text = f'worst frames: {", ".join(map(str, check.worst)) or "none"}'
        ElementTree.SubElement(case, 'system-out').text = '\n'.join(map(printable, [
            check.told, *(f'{name}: {value}' for name, value in check.figures.items())
        ]))
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding='utf-8', xml_declaration=True)


def printable(text: str) -> str:
    """Return untrusted text with `?` for each unprintable character, which XML may not allow."""
    return ''.join(letter if letter.isprintable() else '?' for letter in text)
