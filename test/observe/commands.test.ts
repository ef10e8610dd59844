/** `dmapool ps`, `cat`, `metrics`, `top` and `web`, as a user runs them. */
import assert from 'node:assert/strict';
import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { request } from 'node:http';
import { connect } from 'node:net';
import { after, before, test } from 'node:test';
import { join } from 'node:path';
import type { Snapshot } from 'dmapool/observe';
import { findProgram } from '../support/browser.ts';
import { checkSnapshot } from './fixture.ts';
import { type Program, root, startProgram } from './program.ts';

const COMMAND = join(root, 'bin', 'dmapool.js');
let program: Program;

before(async () => {
  program = await startProgram(`
    const rx = DmaPool.create('rx', device, { size: 2048, maxBlocks: 64 });
    const qtd = DmaPool.create('qtd', device, { size: 96, align: 32, boundary: 4096, debug: true });
    for (let i = 0; i < 5; i++) rx.alloc();
    for (let i = 0; i < 50; i++) qtd.alloc();
    setInterval(() => { for (let i = 0; i < 100; i++) rx.alloc().free(); }, 10);
    console.log('up');
  `);
});

after(async () => {
  await program.stop();
});

interface Run {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

function run(...args: readonly string[]): Run {
  const env = { ...process.env, XDG_RUNTIME_DIR: program.folder };
  const { status, stdout, stderr } = spawnSync(process.execPath, [COMMAND, ...args], { encoding: 'utf8', env });
  return { code: status, out: stdout, err: stderr };
}

const pid = (): string => String(program.pid);

test('ps lists the process, as a table and as JSON', () => {
  const { code, out } = run('ps');
  assert.equal(code, 0);
  const [heading, line] = out.split('\n');
  assert.match(heading!, /^ *PID +UP +DEVICES +POOLS +ACTIVE +MEMORY +PROGRAM$/);
  assert.match(line!, new RegExp(`^ *${pid()} +\\d+s +1 +2 +5\\d `));
  const [document, ...more] = JSON.parse(run('ps', '--json').out) as Record<string, unknown>[];
  assert.deepEqual(more, []);
  assert.equal(document!['pid'], program.pid);
  assert.equal(document!['pools'], 2);
});

test('cat prints the text that sysfs has', () => {
  const text = 'poolinfo - 0.1\nqtd                50   84   96  2\nrx                  5    6 2048  3\n';
  const path = '/sys/devices/0000:00:09.0/pools';
  assert.deepEqual(run('cat', pid(), path), { code: 0, out: text, err: '' });
  assert.deepEqual(JSON.parse(run('cat', pid(), path, '--json').out), { pid: program.pid, path, text });
  assert.deepEqual(run('cat', pid(), '/sys/devices/none/pools'), {
    code: 1,
    out: '',
    err: 'dmapool: cat: /sys/devices/none/pools: no such file or directory\n',
  });
  assert.equal(run('cat', pid(), '/etc/passwd').code, 2);
});

test('the error for a process that is not observable names the remedy', () => {
  const { code, out, err } = run('metrics', '1');
  assert.deepEqual([code, out], [1, '']);
  assert.match(err, /^dmapool: process 1 can't be observed; start it with: node --import dmapool\/observe\/register/);
  assert.equal(run('metrics', 'x').code, 2);
});

test(
  'promtool accepts the metrics',
  { skip: findProgram('promtool') === undefined && 'apt-get install prometheus' },
  () => {
    const { out } = run('metrics', pid());
    const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input: out, encoding: 'utf8' });
    assert.deepEqual([status, stdout, stderr], [0, '', '']);
  },
);

test('metrics as JSON is a snapshot', () => {
  checkSnapshot(JSON.parse(run('metrics', pid(), '--json').out) as Snapshot);
  assert.ok(run('metrics', pid(), '--openmetrics').out.endsWith('# EOF\n'));
});

test('top without a terminal prints lines, and JSON', () => {
  const { code, out } = run('top', '-n', '2', '-d', '300', '-s', 'n');
  assert.equal(code, 0);
  const lines = out.trimEnd().split('\n');
  assert.equal(lines.length, 5, out);
  assert.match(lines[0]!, /^ *PID +DEVICE +POOL +SIZE +ACTIVE/);
  assert.deepEqual(
    lines.slice(1).map((line) => line.trim().split(/ +/)[2]),
    ['qtd', 'rx', 'qtd', 'rx'],
  );
  // The second snapshot has rates.
  assert.match(lines[4]!, /rx .* [1-9][\d,]* +0 +0 +1$/);
  const documents = run('top', '-n', '1', '--json', pid()).out.trimEnd().split('\n');
  const [{ pools }] = documents.map((line) => JSON.parse(line) as { pools: { pool: string; rate: null }[] }) as [
    { pools: { pool: string; rate: null }[] },
  ];
  assert.deepEqual(pools.map(({ pool }) => pool).sort(), ['qtd', 'rx']);
  assert.equal(run('top', '--sort', 'z').code, 2);
});

test(
  'top in a terminal: table, keys, resize, and the restored screen',
  { skip: findProgram('tmux') === undefined && 'apt-get install tmux' },
  async () => {
    const socket = `dmapool-test-${String(process.pid)}`;
    const tmux = (...args: readonly string[]): string =>
      execFileSync('tmux', ['-L', socket, '-f', '/dev/null', ...args], { encoding: 'utf8' });
    const screen = (): string => tmux('capture-pane', '-p');
    const shows = async (what: RegExp): Promise<string> => {
      for (const end = Date.now() + 20_000; Date.now() < end;) {
        const now = screen();
        if (what.test(now)) return now;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      throw new Error(`${String(what)} is not on the screen:\n${screen()}`);
    };
    const shell = `XDG_RUNTIME_DIR=${program.folder} PS1='ready> ' exec sh`;
    tmux('new-session', '-d', '-x', '120', '-y', '20', shell);
    try {
      await shows(/ready>/);
      tmux('send-keys', `${process.execPath} ${COMMAND} top -d 200`, 'Enter');
      const first = await shows(/sorted by ALLOC\/s/);
      assert.match(first, new RegExp(`${pid()} up \\d+s`));
      assert.match(first, /rx +2048 +5 /);
      assert.doesNotMatch(first, /ready>/, 'top uses the alternate screen');
      tmux('send-keys', 'n');
      assert.match(await shows(/sorted by POOL/), /qtd(.|\n)*rx/);
      tmux('send-keys', 'R');
      assert.match(await shows(/sorted by POOL, reversed/), /rx(.|\n)*qtd/);
      tmux('send-keys', 'Right');
      await shows(/sorted by SIZE/);
      tmux('send-keys', 'h');
      await shows(/sort by DEVICE/);
      tmux('send-keys', 'h');
      await shows(/rx +2048/);
      tmux('resize-window', '-x', '60', '-y', '8');
      const small = await shows(/PID/);
      assert.ok(small.split('\n').every((line) => line.length <= 60));
      tmux('send-keys', 'q');
      const last = await shows(/ready> *$/m);
      assert.doesNotMatch(last, /sorted by/);
    } finally {
      tmux('kill-server');
    }
  },
);

// ---- web

interface Web {
  readonly child: ChildProcess;
  readonly url: URL;
}

async function startWeb(): Promise<Web> {
  const env = { ...process.env, XDG_RUNTIME_DIR: program.folder };
  const child = spawn(process.execPath, [COMMAND, 'web', pid(), '--json'], {
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const line = await new Promise<string>((resolve) => child.stdout.setEncoding('utf8').once('data', resolve));
  return { child, url: new URL((JSON.parse(line) as { url: string }).url) };
}

async function get(url: URL, headers: Readonly<Record<string, string>> = {}, method = 'GET'): Promise<number> {
  return new Promise((resolve, reject) => {
    const sent = request(url, { headers, method, agent: false }, (response) => {
      response.resume();
      resolve(response.statusCode!);
    });
    sent.on('error', reject);
    sent.end();
  });
}

test('web refuses requests without the token, or with another host or origin', async () => {
  const { child, url } = await startWeb();
  try {
    assert.equal(url.hostname, '127.0.0.1');
    const at = (path: string): URL => new URL(path, url);
    assert.equal(await get(url), 200);
    for (const path of ['style.css', 'app/main.js', 'app/chart.css', 'snapshot', 'metrics', 'sys/devices']) {
      assert.equal(await get(at(path)), 200, path);
    }
    assert.equal(await get(at('metrics'), { Host: `localhost:${url.port}` }), 200);
    assert.equal(await get(at('metrics'), { Origin: url.origin }), 200);
    const refused: readonly (readonly [URL, Record<string, string>, number, string?])[] = [
      [at('/'), {}, 403],
      [at(`/${'0'.repeat(32)}/`), {}, 403],
      [at(`/${url.pathname.slice(1, -2)}/snapshot`), {}, 403],
      [url, { Host: 'evil.example' }, 403],
      [url, { Host: `evil.example:${url.port}` }, 403],
      [url, { Host: '127.0.0.1' }, 403],
      [at('snapshot'), { Origin: 'http://evil.example' }, 403],
      [at('snapshot'), { Origin: 'null' }, 403],
      [at('app/../snapshot.js'), {}, 404],
      [at('app/index.js'), {}, 404],
      [at('app/main.ts'), {}, 404],
      [url, {}, 405, 'POST'],
      [at(`sys/${'a'.repeat(4000)}`), {}, 414],
      [url, { X: 'a'.repeat(10_000) }, 431],
    ];
    for (const [where, headers, status, method] of refused) {
      assert.equal(
        await get(where, headers, method),
        status,
        `${where.pathname.slice(0, 50)} ${JSON.stringify(headers).slice(0, 50)}`,
      );
    }
    const first = await new Promise<string>((resolve) => {
      const socket = connect(Number(url.port), '127.0.0.1', () => socket.write('nonsense\r\n\r\n'));
      socket.setEncoding('latin1').once('data', resolve);
    });
    assert.match(first, /^HTTP\/1.1 400 /);
    assert.equal(await get(url), 200);
  } finally {
    child.kill();
  }
});
