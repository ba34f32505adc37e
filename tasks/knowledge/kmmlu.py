"""KMMLU: questions of Korean exams with four choices, on 45 subjects, each a configuration of the data set."""

from typing import Any

FIELDS = {
    "humanities and social science": (
        "Accounting", "Criminal-Law", "Economics", "Education", "Korean-History", "Law", "Management",
        "Political-Science-and-Sociology", "Psychology", "Social-Welfare", "Taxation",
    ),
    "STEM": (
        "Biology", "Chemical-Engineering", "Chemistry", "Civil-Engineering", "Computer-Science", "Ecology",
        "Electrical-Engineering", "Information-Technology", "Materials-Engineering", "Math", "Mechanical-Engineering",
    ),
    "applied science": (
        "Aviation-Engineering-and-Maintenance", "Electronics-Engineering", "Energy-Management",
        "Environmental-Science", "Gas-Technology-and-Engineering", "Geomatics", "Industrial-Engineer",
        "Machine-Design-and-Manufacturing", "Maritime-Engineering", "Nondestructive-Testing",
        "Railway-and-Automotive-Engineering", "Telecommunications-and-Wireless-Technology",
    ),
    "other": (
        "Agricultural-Sciences", "Construction", "Fashion", "Food-Processing", "Health",
        "Interior-Architecture-and-Design", "Marketing", "Patent", "Public-Safety", "Real-Estate",
        "Refrigerating-Machinery",
    ),
}  # fmt: skip
"""Subjects by field, as the paper groups them."""


def options(doc: dict[str, Any]) -> list[str]:
    """Return the texts of the choices."""
    return [str(doc[letter]) for letter in "ABCD"]


def groups(doc: dict[str, Any]) -> dict[str, str]:
    """Return field and subject of a question: its configuration, or the category that a row says."""
    subject = str(doc.get("config") or doc.get("Category") or "").strip()
    field = next((name for name, subjects in FIELDS.items() if subject in subjects), None)
    return ({"field": field} if field else {}) | ({"subject": subject} if subject else {})
