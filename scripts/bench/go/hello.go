// hello is the least that a server by Go's net/http can do, for `make bench-go` to compare with: it writes the same body each time, and
// identifies nobody.
//
// hello PORT FILE: FILE is JSON, the body for each path; any other path is 404.
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
)

func main() {
	text, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	bodies := map[string]string{}
	if err := json.Unmarshal(text, &bodies); err != nil {
		log.Fatal(err)
	}
	answers := map[string][]byte{}
	for path, body := range bodies {
		answers[path] = []byte(body)
	}
	handler := http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		body, known := answers[request.URL.Path]
		if !known {
			http.NotFound(answer, request)
			return
		}
		answer.Header().Set("Content-Type", "text/plain")
		answer.Write(body)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], handler))
}
