"""The page of `mnv2 bag report` in a real browser, headless: scrubbed, clicked, by keyboard."""

from collections.abc import Iterator
import os
from pathlib import Path
import shutil
from typing import Any

import pytest
from report_runs import FRAMES, write_results

from mnv2_perception.cli.main import main

pytest.importorskip('selenium', reason='no selenium: run make setup-train')

from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

NAMES = 'chromium', 'chromium-browser', 'google-chrome'
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), '')
DRIVER = shutil.which('chromedriver') or ''
pytestmark = pytest.mark.skipif(
    not (BROWSER and DRIVER), reason='no Chromium: apt install chromium chromium-driver'
)
FLAGS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--disable-dev-shm-usage', '--hide-scrollbars', '--force-prefers-reduced-motion',
    '--window-size=1280,900',
)
HOSTILE = '<script>window.stolen = 1</script><img src=x onerror="window.stolen = 1">'
PHONE, DESKTOP = (390, 844), (1280, 900)


@pytest.fixture(scope='module')
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f'--user-data-dir={tmp_path_factory.mktemp("profile")}'):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    driver = Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope='module')
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the page of two runs, one of them live, with all that a page can have."""
    folder = tmp_path_factory.mktemp('page')
    run = write_results(folder / 'run', photos=True, labels=True, wrong={5: 12}, left_out=(2,))
    live = write_results(folder / 'live', labels=True, live=True, wrong={8: 20})
    out = folder / 'r.html'
    assert main(['bag', 'report', str(run), str(live), '--out', str(out)]) == 0
    return out


def opened(browser: Chrome, page: Path, size: tuple[int, int] = DESKTOP) -> Chrome:
    """Open a page as if for the first time, its earlier messages forgotten."""
    browser.execute_cdp_cmd('Emulation.clearDeviceMetricsOverride', {})
    if size == PHONE:
        browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', {
            'width': size[0], 'height': size[1], 'deviceScaleFactor': 2, 'mobile': True,
        })
    browser.get('about:blank')
    for kind in ('browser', 'performance'):
        browser.get_log(kind)
    browser.get(page.as_uri())
    return browser


def element(browser: Chrome, selector: str) -> Any:
    return browser.find_element(By.CSS_SELECTOR, selector)


def frame(browser: Chrome) -> int:
    """Return the number of the frame that is shown, from 1 on."""
    return int(element(browser, '#where').text.split('frame ')[1].split(' of')[0])


def mask(browser: Chrome) -> str:
    return str(element(browser, '#stage img[alt=Mask]').get_attribute('src'))


def cursor(browser: Chrome) -> float:
    return float(element(browser, '.cursor').get_attribute('x1'))


def complaints(browser: Chrome) -> list[str]:
    return [entry['message'] for entry in browser.get_log('browser')]


def test_scrubbing_shows_another_frame(browser: Chrome, page: Path) -> None:
    opened(browser, page)
    first = mask(browser)
    assert frame(browser) == 1 and cursor(browser) == 0.0
    browser.execute_script(
        "const scrub = document.getElementById('scrub'); scrub.value = 6;"
        "scrub.dispatchEvent(new Event('input'));"
    )
    assert frame(browser) == 7 and mask(browser) != first
    assert cursor(browser) == pytest.approx(1000 * 6 / (FRAMES - 1), abs=0.5)
    assert complaints(browser) == []


def test_keys_step_play_and_stop(browser: Chrome, page: Path) -> None:
    opened(browser, page)
    body = element(browser, 'body')
    body.send_keys(Keys.ARROW_RIGHT)
    assert frame(browser) == 2
    body.send_keys(Keys.END)
    assert frame(browser) == FRAMES
    body.send_keys(Keys.ARROW_LEFT)
    assert frame(browser) == FRAMES - 1
    body.send_keys(Keys.HOME)
    assert frame(browser) == 1
    body.send_keys(Keys.SPACE)
    WebDriverWait(browser, 20).until(lambda driver: frame(driver) == FRAMES)
    WebDriverWait(browser, 20).until(
        lambda driver: element(driver, '#play').get_attribute('aria-pressed') == 'false'
    )
    scrub = element(browser, '#scrub')
    scrub.send_keys(Keys.ARROW_LEFT)  # the slider's own key, once
    assert frame(browser) == FRAMES - 1
    assert complaints(browser) == []


def test_every_control_is_reached_by_tab(browser: Chrome, page: Path) -> None:
    opened(browser, page)
    wanted = {'back', 'play', 'next', 'scrub', 'opacity', 'wrong', 'boxes', 'speed'}
    reached, worst = set(), 0
    for _ in range(40):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        active = browser.switch_to.active_element
        reached.add(active.get_attribute('id'))
        worst += bool(active.find_elements(By.XPATH, './ancestor::*[@id="worst"]'))
    assert wanted <= reached and worst >= 1


def test_a_worst_frame_is_shown_by_a_click_and_by_enter(browser: Chrome, page: Path) -> None:
    opened(browser, page)
    buttons = browser.find_elements(By.CSS_SELECTOR, '#worst button')
    assert buttons and '0.80 s' in buttons[0].text  # of B, as the page says
    buttons[0].click()
    assert frame(browser) == 9
    buttons[1].send_keys(Keys.ENTER)
    assert frame(browser) != 9
    assert complaints(browser) == []


def test_a_click_into_a_curve_goes_to_that_moment(browser: Chrome, page: Path) -> None:
    opened(browser, page)
    curve = element(browser, '.plot svg')
    browser.execute_script('arguments[0].scrollIntoView({block: "center"})', curve)
    ActionChains(browser).move_to_element(curve).click().perform()
    assert frame(browser) in (FRAMES // 2, FRAMES // 2 + 1)
    titles = [each.text for each in browser.find_elements(By.CSS_SELECTOR, '.chart h3')]
    for title in ('Class share', 'Mean confidence', 'Pixels that are right', 'A and B agree',
                  'Latency of segmentation_node', 'Left out'):
        assert any(each.startswith(title) for each in titles), titles


def test_wrong_pixels_and_boxes_come_and_go(browser: Chrome, page: Path) -> None:
    opened(browser, page)
    assert not browser.find_elements(By.CSS_SELECTOR, '#stage img[alt^=Where]')
    element(browser, '#wrong').click()
    assert len(browser.find_elements(By.CSS_SELECTOR, '#stage img[alt^=Where]')) == 2
    assert browser.find_elements(By.CSS_SELECTOR, '#stage rect')
    element(browser, '#boxes').click()
    assert not browser.find_elements(By.CSS_SELECTOR, '#stage rect')


def test_a_frame_without_a_result_says_so(browser: Chrome, page: Path) -> None:
    opened(browser, page)
    for _ in range(2):
        element(browser, '#next').click()
    assert 'No result for this frame' in element(browser, '#stage').text


@pytest.mark.parametrize('size', [PHONE, DESKTOP])
def test_nothing_is_wider_than_the_screen(
    browser: Chrome, page: Path, size: tuple[int, int]
) -> None:
    opened(browser, page, size)
    width, inner = browser.execute_script(
        'return [document.documentElement.scrollWidth, window.innerWidth]'
    )
    assert width == inner == size[0]
    too_small = browser.execute_script(
        "return [...document.querySelectorAll('button')].filter((each) => each.offsetParent"
        ' && each.getBoundingClientRect().height < 40).map((each) => each.id)'
    )
    assert too_small == []
    assert complaints(browser) == []
    if out := os.environ.get('MNV2_SCREENSHOTS'):  # to look at
        browser.save_screenshot(str(Path(out) / f'report_{size[0]}.png'))


@pytest.mark.parametrize(('topics', 'shown'), [
    (['segmentation/mask'], 'img[alt=Mask]'), (['detections'], 'rect'),
    (['classification'], 'img[alt="Camera image"]'), (['grid'], 'img[alt="Camera image"]'),
])
def test_a_page_of_one_frame_and_one_result_works(
    browser: Chrome, tmp_path: Path, topics: list[str], shown: str
) -> None:
    run = write_results(tmp_path / 'run', photos=True, frames=1, only=topics)
    out = tmp_path / 'r.html'
    assert main(['bag', 'report', str(run), '--out', str(out)]) == 0
    opened(browser, out)
    assert frame(browser) == 1 and browser.find_elements(By.CSS_SELECTOR, f'#stage {shown}')
    element(browser, 'body').send_keys(Keys.ARROW_RIGHT)
    element(browser, '#play').click()
    assert frame(browser) == 1 and complaints(browser) == []


def test_the_page_asks_the_network_for_nothing(browser: Chrome, page: Path) -> None:
    opened(browser, page)
    element(browser, '#next').click()
    asked = [
        entry['message'] for entry in browser.get_log('performance')
        if 'Network.requestWillBeSent"' in entry['message']
    ]
    assert asked and not [each for each in asked if '"url":"http' in each or '"url":"ws' in each]


def test_a_class_called_script_does_not_run(browser: Chrome, tmp_path: Path) -> None:
    run = write_results(
        tmp_path / 'run', classes=(HOSTILE, 'car', 'sky'), source=HOSTILE, box=HOSTILE,
        photos=True, labels=True,
    )
    out = tmp_path / 'r.html'
    assert main(['bag', 'report', str(run), '--out', str(out)]) == 0
    opened(browser, out)
    element(browser, '#next').click()
    assert browser.execute_script('return window.stolen === undefined')
    assert HOSTILE in element(browser, '#legend').text
    assert element(browser, 'h1').text == HOSTILE
    # Were the text not escaped, the page's own policy would still not let it run.
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', arguments[0])", HOSTILE)
    browser.execute_script(
        "const script = document.createElement('script'); document.body.append(script);"
        "script.textContent = 'window.stolen = 1';"
    )
    assert browser.execute_script('return window.stolen === undefined')
