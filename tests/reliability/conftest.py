def pytest_collection_modifyitems(items):
    """Tests that fork come first: a process that has trained itself has no children that can."""

    def order(item):
        folder, name = item.path.parts[-2:]
        return (folder != "reliability", name == "test_equal.py")

    items.sort(key=order)
