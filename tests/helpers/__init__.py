"""Code that tests share. These files contain no tests."""
