"""A headless browser for tests: Chromium over its debugging pipe, with no driver to install."""

import base64
import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome')


def find() -> str:
    """The browser's program; the test is skipped where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip('needs chromium')
    return found


class Browser:
    """One tab. ``problems`` gathers what the page logs as an error, throws or asks of the network."""

    def __init__(self, profile: Path) -> None:
        own_read, their_write = os.pipe()
        their_read, own_write = os.pipe()
        # The browser takes commands from descriptor 3 and answers on 4.
        command = f'exec "$0" "$@" 3<&{their_read} 4>&{their_write}'
        options = [
            '--headless=new',
            '--no-sandbox',
            '--disable-gpu',
            '--remote-debugging-pipe',
            '--no-first-run',
        ]
        options += [
            f'--user-data-dir={profile}',
            '--disable-dev-shm-usage',
            '--hide-scrollbars',
            'about:blank',
        ]
        self.process = subprocess.Popen(
            ['bash', '-c', command, find(), *options],
            pass_fds=(their_read, their_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_read)
        os.close(their_write)
        self.reader, self.writer = os.fdopen(own_read, 'rb'), os.fdopen(own_write, 'wb')
        self.ids = itertools.count(1)
        self.session: str | None = None
        self.problems: list[str] = []
        self.loaded = False
        target = self.send('Target.createTarget', url='about:blank')['targetId']
        self.session = self.send('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.send(f'{domain}.enable')

    def close(self) -> None:
        """Ends the browser."""
        self.session = None
        try:
            self.send('Browser.close')
            self.process.wait(timeout=10)
        except (OSError, EOFError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        self.reader.close()
        self.writer.close()

    def send(self, method: str, **params: Any) -> Any:
        """One command of the DevTools protocol, and its result."""
        number = next(self.ids)
        message = {'id': number, 'method': method, 'params': params}
        if self.session:
            message['sessionId'] = self.session
        self.writer.write(json.dumps(message).encode() + b'\0')
        self.writer.flush()
        while True:
            answer = self._next()
            if answer.get('id') == number:
                assert 'error' not in answer, answer
                return answer['result']

    def _next(self) -> dict[str, Any]:
        data = bytearray()
        while (byte := self.reader.read(1)) != b'\0':
            if not byte:
                raise EOFError('the browser ended')
            data += byte
        event = json.loads(data)
        params = event.get('params', {})
        match event.get('method'):
            case 'Runtime.exceptionThrown':
                self.problems.append(json.dumps(params['exceptionDetails']))
            case 'Runtime.consoleAPICalled':
                self.problems.append(json.dumps(params['args']))
            case 'Log.entryAdded':
                self.problems.append(params['entry']['text'])
            case 'Network.requestWillBeSent' if not params['request']['url'].startswith(('file:', 'data:')):
                self.problems.append(params['request']['url'])
            case 'Page.loadEventFired':
                self.loaded = True
        return event

    def open(self, path: Path, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Opens a file at a window size, in light or dark."""
        size = {'width': width, 'height': height, 'deviceScaleFactor': 1, 'mobile': width < 600}
        self.send('Emulation.setDeviceMetricsOverride', **size)
        scheme = {'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}
        self.send('Emulation.setEmulatedMedia', features=[scheme])
        self.loaded = False
        self.send('Page.navigate', url='about:blank')
        while not self.loaded:
            self._next()
        self.loaded = False
        self.send('Page.navigate', url=path.resolve().as_uri())
        while not self.loaded:
            self._next()

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        result = self.send('Runtime.evaluate', expression=script, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in result, result
        return result['result'].get('value')

    def wait(self, script: str) -> None:
        """Waits until a JavaScript expression is true, 5 s at most."""
        for _ in range(500):
            if self.run(script):
                return
            self.run('new Promise(done => setTimeout(done, 10))')
        raise AssertionError(f'never true: {script}')

    def click(self, selector: str) -> None:
        """A real click in the middle of an element."""
        place = f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();
            return [r.x + r.width / 2, r.y + r.height / 2]; }})()"""
        x, y = self.run(place)
        for kind in ('mousePressed', 'mouseReleased'):
            self.send('Input.dispatchMouseEvent', type=kind, x=x, y=y, button='left', clickCount=1)

    def press(self, key: str) -> None:
        """A key, such as Enter, Escape or Tab."""
        codes = {'Enter': 13, 'Escape': 27, 'Tab': 9}
        text = {'text': '\r'} if key == 'Enter' else {}
        common = {'key': key, 'code': key, 'windowsVirtualKeyCode': codes[key]}
        self.send('Input.dispatchKeyEvent', type='keyDown', **common, **text)
        self.send('Input.dispatchKeyEvent', type='keyUp', **common)

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self.send('Input.insertText', text=text)

    def picture(self, path: Path, whole: bool = False) -> None:
        """Saves the window, or the whole page, as PNG."""
        shot = self.send('Page.captureScreenshot', format='png', captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot['data']))
