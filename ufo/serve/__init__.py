"""`ufo serve`: a page in the browser and `POST /predict`, for several users at a time.

`server.py` starts and stops it, `app.py` has the addresses, `question.py` reads what is asked, `batcher.py`
asks the model about several users' pictures at once, `answer.py` writes what was found, `page/` is the page.
Needs the extra `serve` (`pip install 'ufo-vision[serve]'`): `from ufo.serve.server import serve`.
"""
