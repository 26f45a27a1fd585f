"""What training tells a model in words: several ways to say each concept, and facts that say nothing about the target.

A hospital's codes come with displays of its own. A model that met one wording only would take another for a strange fact.
"""

from __future__ import annotations

from multimodal.picking import concept_of

_OTHER_WAYS = {
    "hippocampus-anterior-volume": (
        "Anterior hippocampal volume",
        "Hippocampal head volume",
        "Volume of the head of the hippocampus on MRI",
    ),
    "hippocampus-posterior-volume": (
        "Posterior hippocampal volume",
        "Hippocampal body and tail volume",
        "Volume of the body and tail of the hippocampus on MRI",
    ),
    "hippocampus-volume": ("Hippocampal volume", "Total volume of the hippocampus", "Hippocampus volume on MRI"),
    "age": ("Age in years", "Patient age", "Current age", "Age at imaging"),
    "sex": ("Gender", "Administrative sex", "Sex assigned at birth", "Patient sex"),
    "nihss": (
        "NIHSS",
        "Total score [NIH Stroke Scale]",
        "National Institutes of Health Stroke Scale score",
        "Stroke severity score at admission",
    ),
    "modified-rankin": (
        "mRS",
        "Modified Rankin scale",
        "Rankin disability score after stroke",
        "Disability by the modified Rankin scale",
    ),
    "bmi": ("BMI", "Body mass index (BMI) [Ratio]", "Quetelet index"),
    "prior-stroke": (
        "Previous stroke",
        "History of cerebrovascular accident",
        "Stroke in the past medical history",
        "Personal history of cerebral infarction",
    ),
    "arterial-territory": (
        "Vascular territory of the infarct",
        "Affected cerebral artery",
        "Territory of the infarction",
    ),
    "stroke-lesion-volume": ("Infarct volume", "Lesion volume on MRI", "Volume of the cerebral infarction"),
}

OTHER_FACTS = (
    "Seasonal allergic rhinitis",
    "Osteoarthritis of the knee",
    "Gastro-oesophageal reflux disease",
    "Fracture of the distal radius",
    "Cataract of the right eye",
    "Psoriasis vulgaris",
    "Iron deficiency anaemia",
    "Hypothyroidism",
    "Acute bronchitis",
    "Urinary tract infection",
    "Cholelithiasis",
    "Inguinal hernia",
    "Low back pain",
    "Carpal tunnel syndrome",
    "Benign prostatic hyperplasia",
    "Uterine leiomyoma",
    "Nephrolithiasis",
    "Diverticulosis of the colon",
    "Eczema",
    "Gout",
    "Appendectomy",
    "Total replacement of the hip",
    "Cataract extraction",
    "Influenza vaccination",
    "Allergy to penicillin",
    "Serum potassium",
    "Serum sodium",
    "Haemoglobin [Mass/volume] in Blood",
    "Platelet count",
    "Alanine aminotransferase",
    "Thyrotropin [Units/volume] in Serum",
    "Vitamin D (25-hydroxy) in serum",
    "Serum calcium",
    "Serum ferritin",
    "Visual acuity of the left eye",
    "Intraocular pressure",
    "Body height",
    "Pain severity score",
    "Omeprazole 20 mg oral capsule",
    "Ibuprofen 400 mg oral tablet",
    "Levothyroxine 50 microgram oral tablet",
    "Dental caries",
)
"""Displays of conditions, procedures, observations and medicines that are common, and unrelated to any target of ours."""


def ways_to_say(kind: str) -> tuple[str, ...]:
    """Return the display of a concept, then other wordings of it.

    Examples
    --------
    >>> ways_to_say("bmi")[:2]
    ('Body mass index', 'BMI')
    """
    return (concept_of(kind).display, *_OTHER_WAYS.get(kind, ()))
