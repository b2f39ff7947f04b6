// A client with a pool of ten connections, by one of Node's drivers; see goworker/main.go.
const http = require('http')
const readline = require('readline')

const connections = 10
const timeout = 2000
const [name, address] = process.argv.slice(2)
const [host, port] = address.split(':')

// An application logs what its drivers report of connections that nobody uses, and goes on.
const ignore = () => {}

const drivers = {
  'node pg': () => {
    const { Pool } = require('pg')
    const pool = new Pool({ host, port, user: 'postgres', database: 'postgres', max: connections, idleTimeoutMillis: 0, connectionTimeoutMillis: timeout, query_timeout: timeout })
    pool.on('error', ignore)
    return (slow) => pool.query(slow ? 'select 1 from pg_sleep(0.3)' : 'select 1')
  },
  ioredis: () => {
    // One client is one connection: an application that wants ten makes ten.
    const Redis = require('ioredis')
    const all = Array.from({ length: connections }, () => {
      const client = new Redis({ host, port, commandTimeout: timeout, connectTimeout: timeout })
      client.on('error', ignore)
      return client
    })
    return (slow, i) => (slow ? all[i].blpop('nothing', 1) : all[i].ping())
  },
  'node http': () => {
    const agent = new http.Agent({ keepAlive: true, maxSockets: connections, maxFreeSockets: connections })
    return (slow) => new Promise((resolve, reject) => {
      const request = http.get({ host, port, path: slow ? '/slow' : '/', agent, timeout }, (answer) => {
        answer.resume()
        answer.on('end', () => (answer.statusCode === 200 ? resolve() : reject(new Error(`status ${answer.statusCode}`))))
        answer.on('error', reject)
      })
      request.on('timeout', () => request.destroy(new Error('timeout')))
      request.on('error', reject)
    })
  }
}

const request = drivers[name]()

async function round (each, slow) {
  const outcome = { requests: 0, failed: 0, slowest: 0, error: '' }
  await Promise.all(Array.from({ length: connections }, async (_, i) => {
    for (let n = 0; n < each; n++) {
      const began = Date.now()
      try {
        await request(slow, i)
      } catch (e) {
        outcome.failed++
        outcome.error ||= String(e)
      }
      outcome.requests++
      outcome.slowest = Math.max(outcome.slowest, Date.now() - began)
    }
  }))
  return outcome
}

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  console.log(JSON.stringify(line.trim() === 'warm' ? await round(1, true) : await round(2, false)))
}).on('close', () => process.exit(0))
