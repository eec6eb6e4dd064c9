"""A viewer of slides in the browser, on Bokeh (the extra ``view``)."""
