"""The console's page in a browser: how it is opened, and what must not be found in it."""

from playwright.sync_api import Page, expect


def opened(page: Page, url: str) -> Page:
    page.goto(url)
    expect(page.locator("#connection")).to_have_text("live")
    return page


# Controls and pictures without a name.
UNNAMED = """
[...document.querySelectorAll("input, textarea, select, button, a, svg")]
  .filter((each) => each.checkVisibility() && !each.closest("[aria-hidden=true]"))
  .filter((each) => !each.labels?.length && !each.ariaLabel && !each.textContent.trim())
  .map((each) => each.outerHTML.slice(0, 200))
"""

# WCAG's contrast of text and ground, where it is below 4.5.
FAINT = """
(() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => parts(color).slice(0, 3)
    .map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
  const ground = (each) => {
    for (; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if ((parts(color)[3] ?? 1) > 0) return color;
    }
  };
  return [...document.querySelectorAll("body *")]
    .filter((each) => each.checkVisibility())
    .filter((each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .filter((each) => {
      const [a, b] = [light(getComputedStyle(each).color), light(ground(each))];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05) < 4.5;
    })
    .map((each) => each.outerHTML.slice(0, 200));
})()
"""
