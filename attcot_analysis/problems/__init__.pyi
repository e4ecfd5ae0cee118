"""The names of this room, each with its home: `__init__.py` reads them from here."""

from .coverage import DataCoverage as DataCoverage
from .coverage import data_coverage as data_coverage
from .data import DataCheck as DataCheck
from .data import check_data as check_data
from .data import convert_data as convert_data
from .data import read_data as read_data
from .edits import EditOptions as EditOptions
from .edits import edited_images as edited_images
from .fills import residual as residual
from .folder import load_problems as load_problems
from .folder import save_problems as save_problems
from .formats import FORMATS as FORMATS
from .formats import ResponseFormat as ResponseFormat
from .formats import response_format as response_format
from .objects import edit as edit
from .objects import with_twin as with_twin
from .problem import Box as Box
from .problem import Edit as Edit
from .problem import Problem as Problem
from .problem import Step as Step
from .response import ANSWER_CUE as ANSWER_CUE
from .response import ParsedResponse as ParsedResponse
from .response import parse_response as parse_response
from .response import render_response as render_response
