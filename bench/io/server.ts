/**
 * A server for one client and one kind of buffer: sends chunks of a file, and prints its figures as a line of JSON.
 *
 *     node dist/bench/io/server.js CONTENDER FILE CHUNKS WARMUP      prints its port first
 */
import { once } from 'node:events';
import { type AddressInfo, createServer, type Socket } from 'node:net';

import { CHUNK, CONTENDERS, Sender } from './send.ts';

/** What a server prints. */
export interface ServerFigures {
  readonly bytesPerSecond: number;
  /** Bytes of new ArrayBuffers after the warm-up, at least: the sum of what each sample had more than the one before. */
  readonly arrayBufferBytes: number;
  /** Highest resident memory after the warm-up, in bytes. */
  readonly residentBytes: number;
}

/** Chunks between two samples: often enough to see buffers before they are collected. */
const SAMPLE = 32;

const [name, path, chunksText, warmupText] = process.argv.slice(2);
const contender = CONTENDERS.find((each) => each === name);
if (contender === undefined || path === undefined) throw new Error('usage: server.js CONTENDER FILE CHUNKS WARMUP');
const chunks = Number(chunksText);
const warmup = Number(warmupText);

const server = createServer();
server.listen(0, '127.0.0.1');
await once(server, 'listening');
console.log((server.address() as AddressInfo).port);
const [socket] = (await once(server, 'connection')) as [Socket];
server.close();

const sender = new Sender(path, contender);
await sender.send(socket, warmup, () => undefined);
let { arrayBuffers: before } = process.memoryUsage();
let arrayBufferBytes = 0;
let residentBytes = 0;
const begin = performance.now();
await sender.send(socket, chunks, (sent) => {
  if (sent % SAMPLE !== 0) return;
  const { arrayBuffers, rss } = process.memoryUsage();
  arrayBufferBytes += Math.max(0, arrayBuffers - before);
  before = arrayBuffers;
  residentBytes = Math.max(residentBytes, rss);
});
const seconds = (performance.now() - begin) / 1000;
const figures: ServerFigures = { bytesPerSecond: (chunks * CHUNK) / seconds, arrayBufferBytes, residentBytes };
console.log(JSON.stringify(figures));
socket.end();
sender.close();
